// Causal attention by cuDNN. Whole slices, whose pairs of lengths come again with every long prompt, have a
// plan for each pair; all others share one that reads its lengths from device memory, which takes 7 to 28 %
// longer, where a plan takes 35 ms to make. Plans are kept with the device. The library is loaded when it is
// first asked for, so that programs start without it. Bound: 2 * T * N * D multiply-adds a head, half of it
// for a whole prompt.
#include "kernels/cuda/cudnn_attention.h"

#include <cudnn_frontend.h>
#include <dlfcn.h>
#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <compare>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "shadowkv/error.h"

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // the frontend finds the library's functions through this
}  // namespace cudnn_frontend

namespace shadowkv::cuda {
namespace {

namespace fe = cudnn_frontend;

enum TensorId : int64_t { kQueries = 1, kKeys, kValues, kOut, kQueryCount, kKeyCount, kQueryEnds, kKeyEnds };

using Tensors = std::unordered_map<int64_t, void*>;

// What a plan is made for.
struct PlanShape {
  int64_t queries, keys;  // tokens; the last query sees the last key
  int64_t heads, kv_heads, head_dim;
  float scale;
  bool is_shared;  // the tokens are the most there may be; how many there are stands in CallLengths

  auto operator<=>(const PlanShape&) const = default;
};

// Slices of at least so many queries that are a multiple of kEvenly and stand behind a multiple of their own
// number of keys are taken for whole: those of long prompts that are read alone.
constexpr int64_t kWholeSlice = 4096;
constexpr int64_t kEvenly = 512;
// What a shared plan is made for at least, so that nearly all calls share one.
constexpr int64_t kSharedQueries = 8192;
constexpr int64_t kSharedKeys = 131072;

// cuDNN counts elements behind a tensor's start in 32 bits.
bool can_share(const PlanShape& s) {
  return std::max(s.queries * s.heads, s.keys * s.kv_heads) * s.head_dim <= INT32_MAX;
}

// The plan that serves a call, by its lengths alone, so that a result depends on nothing else.
PlanShape plan_of(const PlanShape& call) {
  const bool is_whole =
      call.queries >= kWholeSlice && call.queries % kEvenly == 0 && call.keys % call.queries == 0;
  if (is_whole || !can_share(call)) return call;
  PlanShape shared = call;
  shared.is_shared = true;
  shared.queries =
      std::max(kSharedQueries, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(call.queries))));
  shared.keys = std::max(kSharedKeys, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(call.keys))));
  return shared;
}

// [tokens, heads, head_dim] as cuDNN counts: [1, heads, tokens, head_dim].
fe::graph::Tensor_attributes tensor(TensorId id, int64_t tokens, int64_t heads, int64_t head_dim) {
  return fe::graph::Tensor_attributes()
      .set_uid(id)
      .set_dim({1, heads, tokens, head_dim})
      .set_stride({tokens * heads * head_dim, head_dim, heads * head_dim, 1});
}

fe::graph::Tensor_attributes integers(TensorId id, int64_t count) {
  return fe::graph::Tensor_attributes()
      .set_uid(id)
      .set_dim({count, 1, 1, 1})
      .set_stride({1, 1, 1, 1})
      .set_data_type(fe::DataType_t::INT32);
}

std::unique_ptr<fe::graph::Graph> describe(const PlanShape& s) {
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  auto q = tensor(kQueries, s.queries, s.heads, s.head_dim);
  auto k = tensor(kKeys, s.keys, s.kv_heads, s.head_dim);
  auto v = tensor(kValues, s.keys, s.kv_heads, s.head_dim);
  auto options = fe::graph::SDPA_attributes()
                     .set_generate_stats(false)
                     .set_attn_scale(s.scale)
                     .set_diagonal_alignment(fe::DiagonalAlignment_t::BOTTOM_RIGHT)
                     .set_diagonal_band_right_bound(0);
  std::shared_ptr<fe::graph::Tensor_attributes> query_ends;
  if (s.is_shared) {
    // Ragged, not padded alone: nothing is then written, nor read, behind the lengths.
    query_ends = graph->tensor(integers(kQueryEnds, 2));
    const auto key_ends = graph->tensor(integers(kKeyEnds, 2));
    q.set_ragged_offset(query_ends);
    k.set_ragged_offset(key_ends);
    v.set_ragged_offset(key_ends);
    options.set_padding_mask(true)
        .set_seq_len_q(graph->tensor(integers(kQueryCount, 1)))
        .set_seq_len_kv(graph->tensor(integers(kKeyCount, 1)));
  }
  const auto out = graph->sdpa(graph->tensor(q), graph->tensor(k), graph->tensor(v), options)[0];
  const auto as = tensor(kOut, s.queries, s.heads, s.head_dim);
  out->set_output(true).set_uid(kOut).set_dim(as.get_dim()).set_stride(as.get_stride());
  if (s.is_shared) out->set_ragged_offset(query_ends);
  return graph;
}

// One a device. Calls come one at a time.
class Cudnn {
 public:
  explicit Cudnn(CudaDevice& /*device*/) {
    if (load() && fe::detail::create_handle(&handle_) != CUDNN_STATUS_SUCCESS) handle_ = nullptr;
  }
  ~Cudnn() {
    plans_.clear();
    if (handle_ != nullptr) fe::detail::destroy_handle(handle_);
  }
  Cudnn(const Cudnn&) = delete;
  Cudnn& operator=(const Cudnn&) = delete;

  [[nodiscard]] bool run(Queue& queue, const PlanShape& call, Tensors tensors) {
    const std::lock_guard lock(mutex_);
    if (handle_ == nullptr) return false;
    PlanShape shape = plan_of(call);
    fe::graph::Graph* plan = plan_for(shape);
    if (plan == nullptr && shape.is_shared) plan = plan_for(shape = call);  // older versions share none
    if (plan == nullptr) return false;
    std::byte* workspace = static_cast<CudaQueue&>(queue).workspace();
    if (shape.is_shared) tell_lengths(queue, call, reinterpret_cast<int32_t*>(workspace), tensors);
    const bool started = fe::detail::set_stream(handle_, stream_of(queue)) == CUDNN_STATUS_SUCCESS &&
                         plan->execute(handle_, tensors, workspace + kLengthsBytes).is_good();
    if (!started) {
      throw DeviceFailure(fmt::format("prefill_attention: cuDNN failed with {} queries over {} keys",
                                      call.queries, call.keys));
    }
    return true;
  }

 private:
  // Long contexts have many whole slices; what is older is made again when it is wanted again.
  static constexpr std::size_t kMostPlans = 1024;
  // Of a queue's workspace, in front of what a plan takes of it; plans want 256-byte alignment.
  static constexpr int64_t kLengthsBytes = 256;

  // In queue order: the workspace may still be read for the call before.
  static void tell_lengths(Queue& queue, const PlanShape& call, int32_t* to, Tensors& tensors) {
    const CallLengths lengths{
        .queries = static_cast<int32_t>(call.queries),
        .keys = static_cast<int32_t>(call.keys),
        .query_ends = {0, static_cast<int32_t>(call.queries * call.heads * call.head_dim)},
        .key_ends = {0, static_cast<int32_t>(call.keys * call.kv_heads * call.head_dim)}};
    store_lengths(queue, lengths, to);
    tensors[kQueryCount] = to + offsetof(CallLengths, queries) / sizeof(int32_t);
    tensors[kKeyCount] = to + offsetof(CallLengths, keys) / sizeof(int32_t);
    tensors[kQueryEnds] = to + offsetof(CallLengths, query_ends) / sizeof(int32_t);
    tensors[kKeyEnds] = to + offsetof(CallLengths, key_ends) / sizeof(int32_t);
  }

  // The library stays loaded: other devices may use it, and it has threads of its own.
  static bool load() {
    static std::mutex mutex;
    const std::lock_guard lock(mutex);
    if (fe::cudnn_dlhandle == nullptr) fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW);
    return fe::cudnn_dlhandle != nullptr;
  }

  fe::graph::Graph* plan_for(const PlanShape& shape) {
    if (plans_.size() == kMostPlans) plans_.clear();
    const auto [place, is_new] = plans_.try_emplace(shape);
    if (is_new) place->second = make_plan(shape);
    return place->second.get();
  }

  // Null where cuDNN has none, or only one that wants more memory than a queue's workspace.
  std::unique_ptr<fe::graph::Graph> make_plan(const PlanShape& shape) {
    auto graph = describe(shape);
    int64_t bytes = 0;
    if (graph->build(handle_, {fe::HeurMode_t::A}).is_bad()) return nullptr;
    if (graph->get_workspace_size(bytes).is_bad() || bytes > CudaQueue::kWorkspaceBytes - kLengthsBytes)
      return nullptr;
    return graph;
  }

  cudnnHandle_t handle_ = nullptr;  // null: there is no cuDNN
  std::mutex mutex_;
  std::map<PlanShape, std::unique_ptr<fe::graph::Graph>> plans_;  // guarded by mutex_; null: no kernel
};

}  // namespace

bool run_cudnn_attention(Queue& queue, const PrefillAttentionParams& p) {
  const int64_t queries = p.q.shape[0], keys = p.first_position + queries;
  const PlanShape call{queries, keys, p.q.shape[1], p.k.shape[1], p.q.shape[2], p.scale, false};
  return device_of(queue).state<Cudnn>().run(
      queue, call, {{kQueries, p.q.data}, {kKeys, p.k.data}, {kValues, p.v.data}, {kOut, p.out.data}});
}

}  // namespace shadowkv::cuda
