// Draws tokens as sampling_math.h says. One block a sequence; its warps take stretches of the vocabulary, so
// that sums by stretches lead to the token that was drawn. What top_k and top_p keep is found digit by digit
// of the tokens' keys, by histograms. Bound: a read of the logits, from memory the first time, then from the
// L2 cache: 2 for a greedy row's pick or none, about 4 for a draw from all, up to 6 more for each of top_k
// and top_p.
#include "kernels/cuda/logit_row.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = kRowThreads, kWarps = kRowWarps;
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;

// A block's shared memory.
struct Shared {
  unsigned long long bins[kBins];
  uint64_t sums[kWarps];
  Best best[kWarps];
  uint64_t before;  // of the bin that was found
  int bin;          // or -1
};

__device__ Best best_of(const Row& row, Shared& shared) {
  Best best{-INFINITY, 0x7fffffff};
  row.walk(row.all().part(static_cast<int>(threadIdx.x) / kWarp), [&](int id, float logit) {
    best = better(best, {logit, id});
  });
  return block_best(best, shared.best);
}

__device__ uint64_t warp_sum(uint64_t x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

// Sum over the lanes before and including this one.
__device__ uint64_t warp_sum_so_far(uint64_t x) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const uint64_t other = __shfl_up_sync(kAllLanes, x, step);
    if (lane >= step) x += other;
  }
  return x;
}

// A row that is drawn from.
class Draw {
 public:
  __device__ Draw(const Row& row, const SamplingRow& how, Best best, Shared& shared)
      : row_(row), how_(how), best_(best), shared_(shared) {}

  __device__ int token() {
    if (how_.top_k > 0) last_ = last_to_reach(how_.top_k, [](uint32_t) { return 1; });
    if (how_.share != SamplingRow::kWholeShare) {
      const uint64_t least = share_of(sum_parts(row_.all()), how_.share);
      const uint64_t last = last_to_reach(least, [](uint32_t distance) { return sampling_weight(distance); });
      last_ = last < last_ ? last : last_;
    }
    return find(row_.all());
  }

 private:
  [[nodiscard]] __device__ uint32_t distance_of(float logit) const {
    return sampling_distance(logit, best_.logit, how_);
  }
  // Weight of a token, 0 where it is not kept.
  [[nodiscard]] __device__ uint64_t weight_of(int id, float logit) const {
    const uint32_t distance = distance_of(logit);
    return sampling_key(distance, id) <= last_ ? sampling_weight(distance) : 0;
  }

  // Leaves the weights of the parts of a stretch in shared memory, to all threads, and returns their sum.
  __device__ uint64_t sum_parts(Stretch stretch) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    uint64_t sum = 0;
    row_.walk(stretch.part(warp), [&](int id, float logit) { sum += weight_of(id, logit); });
    sum = warp_sum(sum);
    __syncthreads();  // the sums before may still be read
    if (threadIdx.x % kWarp == 0) shared_.sums[warp] = sum;
    __syncthreads();
    return warp_sum(shared_.sums[threadIdx.x % kWarp]);
  }

  // The token at a random place of all weights that are kept.
  __device__ int find(Stretch stretch) {
    const uint64_t total = sum_parts(stretch);
    if (total == 0) return best_.index;
    uint64_t left = draw_below(total, how_);
    while (true) {
      int warp = 0;
      for (; warp < kWarps - 1 && left >= shared_.sums[warp]; ++warp) left -= shared_.sums[warp];
      const bool is_last = stretch.part_tokens() == kPiece;
      stretch = stretch.part(warp);
      if (is_last) return find_in_piece(stretch, left);
      (void)sum_parts(stretch);
    }
  }

  // The same of one piece, by every warp.
  [[nodiscard]] __device__ int find_in_piece(Stretch piece, uint64_t left) const {
    const int id = piece.first + static_cast<int>(threadIdx.x) % kWarp * 4;
    const float4 four = row_.four_at(id, piece.end);
    const uint64_t weights[4] = {weight_of(id, four.x), weight_of(id + 1, four.y), weight_of(id + 2, four.z),
                                 weight_of(id + 3, four.w)};
    const uint64_t own = weights[0] + weights[1] + weights[2] + weights[3];
    const uint64_t after = warp_sum_so_far(own);
    const unsigned lanes = __ballot_sync(kAllLanes, left < after);
    uint64_t rest = left - (after - own);
    int found = id;
    for (int i = 0; i < 3 && rest >= weights[i]; ++i) rest -= weights[i], ++found;
    return __shfl_sync(kAllLanes, found, __ffs(static_cast<int>(lanes)) - 1);
  }

  // Key of the first token in order with which the sum of amount(distance) reaches `least`; all ones where
  // all of them together do not.
  template <typename Amount>
  __device__ uint64_t last_to_reach(uint64_t least, const Amount& amount) {
    uint64_t prefix = 0;
    for (int digit = 0; digit < 5; ++digit) {  // three of a distance's 32 bits, two of an id's 22
      const int shift = (digit < 3 ? 54 : 44) - kDigitBits * digit;
      const int bits = shift == 54 ? 10 : kDigitBits, above = shift == 11 ? 32 : shift + bits;
      count_digit(prefix, above, shift, (1 << bits) - 1, amount);
      find_bin(least);
      if (shared_.bin < 0) return ~uint64_t{0};
      least -= shared_.before;
      prefix = (prefix << (above - shift)) + static_cast<uint64_t>(shared_.bin);
      const uint64_t inside = shared_.bins[shared_.bin];
      // Tokens of one distance amount to the same: whether the bin's last is needed.
      const uint64_t one = shift <= 32 ? amount(static_cast<uint32_t>(prefix << shift >> 32)) : 1;
      __syncthreads();
      if (inside - one < least) return ((prefix + 1) << shift) - 1;
    }
    return prefix;
  }

  // Histogram of a digit of the keys that begin, above bit `above`, with prefix.
  template <typename Amount>
  __device__ void count_digit(uint64_t prefix, int above, int shift, uint64_t mask, const Amount& amount) {
    for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) shared_.bins[i] = 0;
    __syncthreads();
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    row_.walk(row_.all().part(warp), [&](int id, float logit) {
      const uint32_t distance = distance_of(logit);
      const uint64_t key = sampling_key(distance, id);
      if (distance == kNoDistance || (above < 64 && key >> above != prefix)) return;
      atomicAdd(&shared_.bins[key >> shift & mask], static_cast<unsigned long long>(amount(distance)));
    });
    __syncthreads();
  }

  // The first bin with which the sum of bins reaches `least`, and the sum before it; -1 where there is none.
  __device__ void find_bin(uint64_t least) {
    static_assert(kBins == 2 * kThreads);
    const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
    const uint64_t low = shared_.bins[2 * thread], high = shared_.bins[2 * thread + 1];
    const uint64_t own = warp_sum_so_far(low + high);
    if (thread % kWarp == kWarp - 1) shared_.sums[warp] = own;
    if (thread == 0) shared_.bin = -1;
    __syncthreads();
    const uint64_t warps = warp_sum_so_far(shared_.sums[thread % kWarp]);
    const uint64_t earlier = warp == 0 ? 0 : __shfl_sync(kAllLanes, warps, warp - 1);
    const uint64_t before = earlier + own - low - high;
    if (before < least && before + low + high >= least) {
      const bool in_low = before + low >= least;
      shared_.bin = 2 * thread + (in_low ? 0 : 1);
      shared_.before = in_low ? before : before + low;
    }
    __syncthreads();
  }

  const Row row_;
  const SamplingRow how_;
  const Best best_;
  Shared& shared_;
  uint64_t last_ = ~uint64_t{0};  // key of the last token that is kept
};

__global__ void __launch_bounds__(kThreads)
    sample_kernel(const float* logits, int vocab, const SamplingRow* rows, int32_t* ids) {
  __shared__ Shared shared;
  const Row row(logits + static_cast<int64_t>(blockIdx.x) * vocab, vocab);
  const Best best = best_of(row, shared);
  const SamplingRow how = rows[blockIdx.x];
  const int id = how.steepness == 0.0f ? best.index : Draw(row, how, best, shared).token();
  if (threadIdx.x == 0) ids[blockIdx.x] = id;
}

}  // namespace

void sample_tokens(Queue& queue, const SampleTokensParams& params) {
  const auto vocab = static_cast<int>(params.logits.shape[1]);
  sample_kernel<<<grid_x(params.logits.shape[0], "sample_tokens"), kThreads, 0, stream_of(queue)>>>(
      device_ptr<float>(params.logits), vocab, params.rows, device_ptr<int32_t>(params.ids));
  check_launch("sample_tokens");
}

}  // namespace shadowkv::cuda
