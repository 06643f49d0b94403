// Keys of missing chunks from their factors, on tensor cores. A block takes the missing tokens of one
// sequence, KV head and segment, or shares them with others where they are many: the segment's basis for that
// head comes to shared memory once, then each warp rebuilds tiles of 16 tokens by itself: their factors come
// by asynchronous copies, int8 codes as they are, and are multiplied as bfloat16 (codes exactly, their scale
// afterwards), summed in float32, turned in float32 and rounded once. A warp holds whole keys, so that whole
// heads are turned in registers; there they can be scored as well, against up to 8 query heads, and blocks of
// their own score what lies in slots. Bound: bytes of the bases, of the factors and of the keys written. What
// counts is the instructions of a tile and waiting for loads; asking the L2 cache for the next segments'
// bases early makes it slower (126 -> 136 us for 344 heads of 106 missing chunks).
#include "kernels/cuda/rebuild_tile.cuh"

namespace shadowkv::cuda {
namespace {

// ---- kernels ----------------------------------------------------------------------------------------------
// Rounds of kWarps tiles of an item that block `sharer` takes: sharer, sharer + p.sharers, ..
template <int kDim, bool kCodes, Turning kTurning>
__device__ void rebuild_item(const RebuildParams& p, std::byte* memory, int64_t bg, int segment,
                             const Item& item, int sharer) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t row = p.batch.rows[bg / p.kv_heads], g = bg % p.kv_heads;
  const int2* list = p.missing + bg * p.candidates;
  const std::byte* all_basis = p.of_segment(p.basis, row, segment) + g * kDim * size_of(p.basis.dtype);
  const auto* all_mean = reinterpret_cast<const float*>(p.of_segment(p.mean, row, segment)) + g * kDim;
  auto* basis = p.shared<Bf16>(memory, &SharedPlan::basis);
  auto* mean = p.shared<float>(memory, &SharedPlan::mean);
  std::byte* tile = p.shared<std::byte>(memory, &SharedPlan::factors) + warp * kTile * p.factor_stride;
  constexpr int kRound = kWarps * kTile;
  const int end = item.count * p.chunk, own = warp * kTile + lane / kSharers, step = p.sharers * kRound;
  load_basis<kDim>(p, all_basis, 0, basis);  // first: the most, and what comes after waits for tables
  Row loaded = find_row(p, row, list, item, sharer * kRound + own);
  load_row<kCodes>(p, loaded.factors, 0, tile);
  for (int d = threadIdx.x; d < kDim; d += kThreads) copy_async_4(mean + d, all_mean + d);
  if (p.scores.out != nullptr) load_queries<kDim>(p, bg, p.shared<uint2>(memory, &SharedPlan::queries));
  commit_copies();
  if constexpr (kTurning != Turning::in_memory) {
    auto* frequencies = p.shared<Frequency>(memory, &SharedPlan::frequencies);
    const float* all = p.rope.frequencies(row);
    for (int i = threadIdx.x; i < kDim / 2; i += kThreads) frequencies[i] = Frequency::of(all[i]);
  }
  const bool whole = p.rank <= p.panel;  // then only the first round needs the other warps
  for (int from = sharer * kRound; from < end; from += step) {
    Sums<kDim> sums = {};
    const bool any = from + warp * kTile < end, last = from + step >= end;
    Row next = loaded;
    for (int first = 0; first < p.rank; first += p.panel) {
      wait_for_copies<0>();
      whole&& from >= step ? __syncwarp() : __syncthreads();
      if (any) multiply<kDim, kCodes>(p, tile, basis, sums);
      whole ? __syncwarp() : __syncthreads();
      const bool more = first + p.panel < p.rank;
      if (!more && last) break;
      if (!more) next = find_row(p, row, list, item, own + from + step);
      if (!whole) load_basis<kDim>(p, all_basis, more ? first + p.panel : 0, basis);
      load_row<kCodes>(p, next.factors, more ? first + p.panel : 0, tile);
      commit_copies();
    }
    if (any) finish<kDim, kTurning>(p, memory, bg, loaded, sums);
    loaded = next;
  }
}

// Grid: KV heads, sequences, blocks that score what is not missing and then those of the segments. kCodes:
// factors are int8, read as vectors.
template <int kDim, bool kCodes, Turning kTurning>
__global__ void __launch_bounds__(kThreads, kDim <= 128 ? 4 : 2) rebuild_keys_kernel(RebuildParams p) {
  extern __shared__ __align__(16) std::byte memory[];
  const int64_t bg = blockIdx.y * p.kv_heads + blockIdx.x;
  const int block = static_cast<int>(blockIdx.z) - p.scores.blocks;
  if constexpr (kTurning != Turning::in_memory) {
    if (block < 0) {
      load_queries<kDim>(p, bg, p.shared<uint2>(memory, &SharedPlan::queries));
      commit_copies();
      wait_for_copies<0>();
      __syncthreads();
      const int warp = threadIdx.x / kWarp;
      return score_others<kDim>(p, memory, blockIdx.y, blockIdx.x, (blockIdx.z * kWarps + warp) * kWarp,
                                p.shared<std::byte>(memory, &SharedPlan::basis) + warp * kKeyRoom<kDim>);
    }
  }
  const int segment = p.by_sharer(block), sharer = block - segment * p.sharers;
  const Item item = find_item(p, p.missing + bg * p.candidates, segment);
  if (sharer * kWarps * kTile >= item.count * p.chunk) return;
  rebuild_item<kDim, kCodes, kTurning>(p, memory, bg, segment, item, sharer);
}

// Any head_dim and types, one block an entry of a list: number by number in float32.
__global__ void rebuild_plainly_kernel(RebuildParams p) {
  extern __shared__ __align__(16) float key[];
  const int64_t b = blockIdx.z, g = blockIdx.y, bg = b * p.kv_heads + g, row = p.batch.rows[b];
  const int2 listed = p.missing[bg * p.candidates + blockIdx.x];
  if (listed.x < 0) return;
  const int64_t entry = bg * p.candidates + listed.x, chunk = listed.y;
  const int64_t width = p.kv_heads * p.head_dim;
  const int half = static_cast<int>(p.rope.rotary_dim / 2);
  const int step = p.rope.interleaved ? 2 : 1, apart = p.rope.interleaved ? 1 : half;
  const float* frequencies = p.rope.frequencies(row);
  for (int t = 0; t < p.chunk; ++t) {
    const int64_t position = chunk * p.chunk + t;
    const std::byte* factors = p.factors.data.at(row, 0, position);
    const float scale = row_scale(p.factors, row, 0, position);
    const std::byte* basis = p.basis.at(row, 0, position);
    const auto* mean = reinterpret_cast<const float*>(p.mean.at(row, 0, position)) + g * p.head_dim;
    for (int d = threadIdx.x; d < p.head_dim; d += blockDim.x) {
      float sum = mean[d];
      for (int r = 0; r < p.rank; ++r)
        sum += read_number(basis, p.basis.dtype, r * width + g * p.head_dim + d) *
               read_stored(factors, p.factors.data.dtype, scale, r);
      key[d] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
      const float2 turn = turn_of(static_cast<int>(position), frequencies[i]);
      const float x = key[i * step], y = key[i * step + apart];
      key[i * step] = x * turn.x - y * turn.y;
      key[i * step + apart] = y * turn.x + x * turn.y;
    }
    __syncthreads();
    const int64_t to = (entry * p.chunk + t) * p.head_dim;
    for (int d = threadIdx.x; d < p.head_dim; d += blockDim.x)
      write_number(p.out, p.out_dtype, to + d, key[d]);
    __syncthreads();
  }
}

// ---- launcher ---------------------------------------------------------------------------------------------

constexpr const char* kOp = "rebuild_keys";
constexpr int64_t kMostSegments = int64_t{1} << 30;      // of a sequence
constexpr int64_t kMostTokens = (int64_t{1} << 31) - 1;  // of a sequence

bool is_aligned(const PagedView& view) {
  return view.offset % 16 == 0 && view.token_bytes % 16 == 0;
}

int block_tokens_of(const PagedView& view) {
  return static_cast<int>(view.block_tokens < kMostTokens ? view.block_tokens : kMostTokens);
}

Turning turning_of(const RebuildKeysParams& p) {
  if (p.rope.rotary_dim != p.head_dim || p.out.dtype != DType::bf16) return Turning::in_memory;
  return p.rope.interleaved ? Turning::neighbours : Turning::halves;
}

RebuildParams params_of(const RebuildKeysParams& p) {
  RebuildParams params{};
  params.batch = p.batch;
  params.missing = device_ptr<int2>(p.missing);
  params.factors = p.factors;
  params.mean = p.mean;
  params.basis = p.basis;
  params.rank = static_cast<int>(p.rank);
  params.rope = p.rope;
  params.out = p.out.data;
  params.out_dtype = p.out.dtype;
  params.kv_heads = p.out.shape[1];
  params.candidates = static_cast<int>(p.out.shape[2]);
  params.chunk = static_cast<int>(p.chunk);
  params.head_dim = static_cast<int>(p.head_dim);
  const int64_t segments =
      ceil_div<int64_t>(p.batch.max_tokens > 0 ? p.batch.max_tokens : 1, p.mean.block_tokens);
  params.segments = static_cast<int>(segments < kMostSegments ? segments : kMostSegments);
  params.segment_chunks = block_tokens_of(p.mean) / params.chunk;
  params.by_chunk = Divider(params.chunk);
  params.factor_block = block_tokens_of(p.factors.data);
  params.by_factor_block = Divider(params.factor_block);
  const bool same = p.factors.data.dtype == DType::i8 || p.factors.data.dtype == DType::bf16;
  const int64_t row_bytes = p.rank * size_of(p.factors.data.dtype);
  params.vectors = same && row_bytes % 16 == 0 && is_aligned(p.factors.data);
  params.turning = turning_of(p);
  params.basis_vectors = p.basis.dtype == DType::bf16 && is_aligned(p.basis);
  return params;
}

// The plan for panels of so many numbers.
template <int kDim>
void plan_shared(RebuildParams& params, bool codes, int panel) {
  using S = Shape<kDim>;
  params.panel = panel;
  // Rows of a tile meet all banks where an odd number of pieces fills them; codes may meet half of them
  // twice.
  const int pieces = panel / 16;
  params.factor_stride = codes ? (pieces % 4 == 2 ? pieces : pieces | 1) * 16 : (pieces | 1) * 32;
  int end = 0;
  const auto place = [&end](int bytes) {
    const int at = end;
    end += round_up(bytes, 16);
    return at;
  };
  const bool in_memory = params.turning == Turning::in_memory;
  const bool scores = params.scores.out != nullptr;
  params.plan.queries = place(scores ? kDim / 16 * kWarp * static_cast<int>(sizeof(uint2)) : 0);
  params.plan.basis = place(panel * S::kStride * 2);
  params.plan.factors = place(kWarps * kTile * params.factor_stride);
  params.plan.keys = place(in_memory ? kWarps * kTile * S::kKeyStride * 4 : 0);
  params.plan.mean = place(kDim * 4);
  params.plan.frequencies = place(in_memory ? 0 : S::kHalf * static_cast<int>(sizeof(Frequency)));
  const int others = params.plan.basis + kWarps * kKeyRoom<kDim>;
  params.plan.bytes = scores && others > end ? others : end;
}

// Blocks that fit on a multiprocessor whose blocks may have `most` bytes of shared memory.
constexpr int64_t kSystemShared = 1024;  // that every block takes besides
int64_t resident(const RebuildParams& params, int64_t most) {
  return (most + kSystemShared) / (params.plan.bytes + kSystemShared);
}

// The largest panel of which two blocks fit on a multiprocessor, or one if need be; 0 where none does.
template <int kDim>
int choose_panel(RebuildParams& params, bool codes, int64_t most) {
  const int rank = round_up(params.rank, 16);
  int fits = 0;
  for (int panels = 1; panels <= rank / 16; ++panels) {
    const int panel = round_up(ceil_div(rank, panels), 16);
    plan_shared<kDim>(params, codes, panel);
    const int64_t blocks = resident(params, most);
    if (blocks >= 2) return panel;
    if (blocks == 1 && fits == 0) fits = panel;
  }
  return fits;
}

// Blocks that share a segment's tokens: as many as give each about two rounds of tiles where all candidates
// are missing and spread evenly, or one round where the device has room for more blocks.
int sharers_of(const RebuildParams& params, int64_t heads, int64_t multiprocessors) {
  constexpr int64_t kRound = kWarps * kTile;
  const int64_t tokens = ceil_div<int64_t>(int64_t{params.candidates} * params.chunk, params.segments);
  const bool has_room = heads * params.segments < 2 * multiprocessors;
  const int64_t each = has_room ? kRound : 2 * kRound;
  return static_cast<int>(ceil_div(tokens, each));
}

// False if nothing fits.
template <int kDim>
bool choose_plan(Queue& queue, RebuildParams& params, bool codes, int64_t sequences) {
  const CudaDevice& device = device_of(queue);
  const int panel = choose_panel<kDim>(params, codes, device.shared_bytes_per_block());
  if (panel == 0) return false;
  plan_shared<kDim>(params, codes, panel);
  params.sharers = sharers_of(params, sequences * params.kv_heads, device.multiprocessors());
  params.by_sharer = Divider(params.sharers);
  return true;
}

template <int kDim, bool kCodes, Turning kTurning>
void launch(Queue& queue, const RebuildParams& params, const dim3& grid) {
  allow_shared(rebuild_keys_kernel<kDim, kCodes, kTurning>, params.plan.bytes, kOp);
  rebuild_keys_kernel<kDim, kCodes, kTurning>
      <<<grid, kThreads, static_cast<size_t>(params.plan.bytes), stream_of(queue)>>>(params);
}

// False where shared memory has no room.
template <int kDim, bool kCodes>
bool launch(Queue& queue, const RebuildKeysParams& p, RebuildParams& params) {
  if (!choose_plan<kDim>(queue, params, kCodes, p.batch.size)) return false;
  if (params.scores.out != nullptr) params.scores.blocks = ceil_div(params.candidates, kThreads);
  const dim3 grid(grid_x(params.kv_heads, kOp), grid_yz(p.batch.size, kOp),
                  grid_yz(int64_t{params.segments} * params.sharers + params.scores.blocks, kOp));
  if (params.turning == Turning::halves) {
    launch<kDim, kCodes, Turning::halves>(queue, params, grid);
  } else if (params.turning == Turning::neighbours) {
    launch<kDim, kCodes, Turning::neighbours>(queue, params, grid);
  } else {
    launch<kDim, kCodes, Turning::in_memory>(queue, params, grid);
  }
  return true;
}

// Items need mean and basis cut alike and between chunks, factors and scales cut alike, and few segments.
bool have_items(const RebuildKeysParams& p, const RebuildParams& params) {
  return p.mean.block_tokens == p.basis.block_tokens && p.mean.block_tokens % p.chunk == 0 &&
         params.segments < kMostSegments &&
         (p.factors.data.dtype != DType::i8 || p.factors.data.block_tokens == p.factors.scales.block_tokens);
}

// False where shared memory has no room, or the shape no kernel.
bool launch_items(Queue& queue, const RebuildKeysParams& p, RebuildParams& params) {
  bool taken = false;
  if (!have_items(p, params)) return false;
  with_head_dim(p.head_dim, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    taken = p.factors.data.dtype == DType::i8 && params.vectors ? launch<kDim, true>(queue, p, params)
                                                                : launch<kDim, false>(queue, p, params);
  });
  return taken;
}

// Whether tiles hold whole chunks of one segment each, and few enough heads: then they can be scored too.
bool tiles_score(const RebuildAndScoreParams& p, int64_t group) {
  const RebuildKeysParams& r = p.rebuild;
  return turning_of(r) != Turning::in_memory && kTile % r.chunk == 0 && group <= kTileQueries &&
         is_aligned_16(p.q.data);
}

}  // namespace

void rebuild_keys(Queue& queue, const RebuildKeysParams& p) {
  RebuildParams params = params_of(p);
  if (params.candidates == 0) return;
  if (!launch_items(queue, p, params)) {
    const dim3 grid(grid_x(params.candidates, kOp), grid_yz(params.kv_heads, kOp),
                    grid_yz(p.batch.size, kOp));
    rebuild_plainly_kernel<<<grid, 128, static_cast<size_t>(p.head_dim * 4), stream_of(queue)>>>(params);
  }
  check_launch(kOp);
}

void rebuild_and_score(Queue& queue, const RebuildAndScoreParams& p) {
  demand_activations(p.q, "rebuild_and_score");
  RebuildParams params = params_of(p.rebuild);
  const int64_t group = p.q.shape[1] / params.kv_heads;
  if (tiles_score(p, group)) {
    params.scores = {device_ptr<Bf16>(p.q),
                     p.scale * kLog2e,
                     device_ptr<float>(p.scores),
                     static_cast<int>(group),
                     0,
                     device_ptr<int32_t>(p.chunks),
                     device_ptr<int32_t>(p.found),
                     p.held};
    if (launch_items(queue, p.rebuild, params)) return check_launch(kOp);
  }
  cuda::rebuild_keys(queue, p.rebuild);
  cuda::candidate_scores(queue, p.score());
}

}  // namespace shadowkv::cuda
