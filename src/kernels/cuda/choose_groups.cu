// Ranking and top-k of a row, one block a sequence and KV head, and what is done with the choice in the same
// launch: finding slots, or giving them. Long rows (choose_long.cuh) and short ones (choose_short.cuh).
#include "kernels/cuda/choose_long.cuh"
#include "kernels/cuda/choose_short.cuh"
#include "kernels/cuda/slots.cuh"
#include "kernels/synthetic_math.h"

namespace shadowkv::cuda {
namespace {

// ---- what follows in the same launch ----------------------------------------------------------------------

// Each has: Shared; load(bg), called early; choice(bg), where the choice is to lie in the end; run(bg, what
// load() gave, the choice, shared).
struct Nothing {
  struct Shared {};
  struct Held {};
  int32_t* chosen;  // [B, G, room]
  int room;

  __device__ Held load(int64_t /*bg*/) const { return {}; }
  __device__ int32_t* choice(int64_t bg) const { return chosen + bg * room; }
  __device__ void run(int64_t /*bg*/, const Held& /*held*/, int32_t* /*list*/, Shared& /*shared*/) const {}
};

// What a forced choice puts in the place of entry i.
struct ForcedChunk {
  __device__ static int32_t of(const ForcedChoice& choice, int i) { return choice.chunk(i); }
};
struct ForcedPick {
  __device__ static int32_t of(const ForcedChoice& choice, int i) { return choice.pick(i); }
};

// Step: FindParams or AssignParams.
template <typename Step, typename Forced>
struct Then {
  Forcing forcing;
  Step step;
  using Shared = typename Step::Shared;
  using Held = typename Step::Held;

  __device__ Held load(int64_t bg) const { return step.load(bg); }
  __device__ int32_t* choice(int64_t bg) const { return step.choice(bg); }
  __device__ void run(int64_t bg, const Held& held, int32_t* list, Shared& shared) const {
    if (forcing.on) {
      const ForcedChoice forced = forcing.of(step.batch, step.slots, step.candidates, bg);
      for (int i = threadIdx.x; i < step.choices(); i += blockDim.x) list[i] = Forced::of(forced, i);
      __syncthreads();
    }
    step.run(bg, held, list, shared);
  }
};
using ThenFind = Then<FindParams, ForcedChunk>;
using ThenAssign = Then<AssignParams, ForcedPick>;

constexpr int kSharedList = 512;  // entries of a choice that are kept in shared memory

// Chooses by choose(list, meanwhile) and does what follows; list is where the choice is needed once more.
template <typename Then, typename Choose>
__device__ void choose_then_run(const Then& then, int room, typename Then::Shared& shared,
                                const Choose& choose) {
  __shared__ int32_t shared_list[kSharedList];
  const int64_t bg = blockIdx.x;
  int32_t* out = then.choice(bg);
  int32_t* list = room <= kSharedList ? shared_list : out;
  typename Then::Held held{};
  choose(list, [&] { held = then.load(bg); });
  __syncthreads();
  then.run(bg, held, list, shared);
  for (int i = threadIdx.x; i < room && list != out; i += blockDim.x) out[i] = list[i];
}

template <typename Then>
__global__ void __launch_bounds__(kLongThreads, kLongBlocks)
    choose_long_kernel(GroupChoiceParams p, Then then) {
  union Shared {
    LongShared choose;
    typename Then::Shared then;
  };
  __shared__ Shared shared;
  extern __shared__ int4 map[];
  choose_then_run(then, p.room, shared.then, [&](int32_t* list, const auto& meanwhile) {
    choose_long(p, shared.choose, reinterpret_cast<uint32_t*>(map), list, meanwhile);
  });
}

template <typename Then>
__global__ void __launch_bounds__(kFew, kShortBlocks) choose_short_kernel(GroupChoiceParams p, Then then) {
  union Shared {
    ShortShared choose;
    typename Then::Shared then;
  };
  __shared__ Shared shared;
  choose_then_run(then, p.room, shared.then, [&](int32_t* list, const auto& meanwhile) {
    choose_short(p, shared.choose, list, meanwhile);
  });
}

// ---- launching --------------------------------------------------------------------------------------------

// Spans of the scores: those given, else summed up in scratch.
const float2* spans_for(Queue& queue, const ChooseGroupsParams& p, const char* op) {
  if (!p.spans.empty()) return device_ptr<float2>(p.spans);
  const int64_t count = p.scores.shape[0] * p.scores.shape[1] * spans_of(p.scores.shape[2]);
  auto* spans = reinterpret_cast<float2*>(scratch_of(queue, count * int64_t{sizeof(float2)}, op));
  sum_spans(queue, p.scores, spans, op);
  return spans;
}

template <typename Then>
void choose_then(Queue& queue, const ChooseGroupsParams& p, const Then& then, const char* op) {
  constexpr int64_t kMostEntries = int64_t{1} << 30;
  const int64_t kv_heads = p.chosen.shape[1], group = p.scores.shape[1] / kv_heads, n = p.scores.shape[2];
  const int64_t rows = p.scores.shape[0] * kv_heads, room = p.chosen.shape[2];
  demand(group <= kMostGroup, op, "more than 256 query heads of a KV head have no kernel");
  demand(n <= kMostEntries && room <= kMostEntries, op, "rows of more than 2^30 entries have no kernel");
  const bool is_short = n <= kFew;
  const GroupChoiceParams params{device_ptr<float>(p.scores),
                                 is_short ? nullptr : spans_for(queue, p, op),
                                 p.limits,
                                 device_ptr<float>(p.lse),
                                 kv_heads,
                                 static_cast<int>(group),
                                 static_cast<int>(n),
                                 static_cast<int>(spans_of(n)),
                                 static_cast<int>(room)};
  if (is_short) {
    const int threads = static_cast<int>(round_up<int64_t>(n > 0 ? n : 1, kWarp));
    choose_short_kernel<<<grid_x(rows, op), threads, 0, stream_of(queue)>>>(params, then);
  } else {
    check_cuda(cudaFuncSetAttribute(choose_long_kernel<Then>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    kMapBytes),
               op);
    choose_long_kernel<<<grid_x(rows, op), kLongThreads, map_bytes(n), stream_of(queue)>>>(params, then);
  }
  check_launch(op);
}

}  // namespace

void choose_groups(Queue& queue, const ChooseGroupsParams& p) {
  choose_then(queue, p, Nothing{device_ptr<int32_t>(p.chosen), static_cast<int>(p.chosen.shape[2])},
              "choose_groups");
}

void choose_candidates(Queue& queue, const ChooseCandidatesParams& p) {
  choose_then(queue, p.choose(), ThenFind{Forcing(p.forced, p.candidates.shape[2]), FindParams(p.find())},
              "choose_candidates");
}

void pick_candidates(Queue& queue, const PickCandidatesParams& p) {
  choose_then(queue, p.choose(),
              ThenAssign{Forcing(p.forced, p.assign.chunks.shape[2]), AssignParams(p.assign)},
              "pick_candidates");
}

}  // namespace shadowkv::cuda
