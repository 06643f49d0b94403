// Changes rows of logits and ranks their tokens as logit_math.h says.
//
// change_logits: blocks share a row's vocabulary and its marked tokens; a forbidden token is written by the
// thread of its bit of the mask, any other by that of its mark, so that nobody waits. Bound: bytes
// (kernels.h) over all multiprocessors: a mask's bits and what it forbids, 0.6 MB a row of 152k tokens at
// most.
//
// rank_tokens: a block a row; each thread holds the best of its tokens that was not taken yet. Bound: two
// reads of a row by one multiprocessor, the second from the L2 cache; then for each of the likeliest a
// reduction over the block and a warp's look at the tokens of the thread that it was taken from.
#include "kernels/cuda/logit_row.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTokens = 4096;  // of a row's vocabulary, a block
constexpr int kMaskBits = 64;

__global__ void __launch_bounds__(kThreads)
    keep_kernel(const float* logits, int vocab, const LogitRow* rows) {
  float* raw = rows[blockIdx.y].raw;
  if (raw == nullptr) return;
  const float* from = logits + static_cast<int64_t>(blockIdx.y) * vocab;
  const int first = static_cast<int>(blockIdx.x) * kTokens, end = min(vocab, first + kTokens);
#pragma unroll 4
  for (int id = first + static_cast<int>(threadIdx.x); id < end; id += kThreads) raw[id] = from[id];
}

// Takes over the block's words of a fresh mask, and writes -infinity where a bit is not set.
__device__ void forbid(float* logits, int vocab, const LogitRow& row, const uint64_t* mask) {
  constexpr int kWords = kTokens / kMaskBits;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first = static_cast<int>(blockIdx.x) * kWords;
  const int end = min(static_cast<int>(mask_words(vocab)), first + kWords);
#pragma unroll 4
  for (int word = first + warp; word < end; word += kWarps) {
    const uint64_t bits = mask[word];
    if (mask != row.mask && lane == 0) row.mask[word] = bits;
    if (bits == ~uint64_t{0}) continue;
    for (int bit = lane; bit < kMaskBits; bit += kWarp) {
      const int id = word * kMaskBits + bit;
      if (id < vocab && (bits >> bit & 1) == 0) logits[id] = -INFINITY;
    }
  }
}

__global__ void __launch_bounds__(kThreads) change_kernel(float* logits, int vocab, const LogitRow* rows) {
  const LogitRow row = rows[blockIdx.y];
  logits += static_cast<int64_t>(blockIdx.y) * vocab;
  const uint64_t* mask = row.fresh_mask != nullptr ? row.fresh_mask : row.mask;
  if (mask != nullptr) forbid(logits, vocab, row, mask);
  const int threads = static_cast<int>(gridDim.x) * kThreads;
  for (int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x); i < row.marked_count; i += threads) {
    const bool is_fresh = i == row.fresh_place;
    const MarkedToken token = is_fresh ? row.fresh : row.marked[i];
    if (is_fresh) row.marked[i] = token;
    if (mask != nullptr && !is_allowed(mask, token.id)) continue;
    logits[token.id] = changed_logit(logits[token.id], token, row.penalties);
  }
}

// ---- ranks ------------------------------------------------------------------------------------------------

// What follows `last` in order.
__device__ bool is_after(Best last, Best other) {
  return other.logit < last.logit || (other.logit == last.logit && other.index > last.index);
}

// A row's tokens in order, one after the other.
class Ranking {
 public:
  __device__ Ranking(const Row& row, Best* shared) : row_(row), shared_(shared) {
    const Stretch part = row_.all().part(warp());
    row_.walk(part, [&](int id, float logit) {
      if (id < part.end) own_ = better(own_, {logit, id});
    });
    best_ = block_best(own_, shared_);
  }
  [[nodiscard]] __device__ Best best() const { return best_; }

  // Takes the best away: the next of the thread that held it is looked for by its warp.
  __device__ void advance() {
    const int each = row_.all().part_tokens();
    if (best_.index / each == warp()) {
      const Stretch part = row_.all().part(warp());
      const int holder = (best_.index - part.first) % kPiece / 4;
      const Best next = next_of(part, holder);
      if (lane() == holder) own_ = next;
    }
    best_ = block_best(own_, shared_);
  }

 private:
  [[nodiscard]] static __device__ int warp() { return static_cast<int>(threadIdx.x) / kWarp; }
  [[nodiscard]] static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }

  [[nodiscard]] __device__ Best next_of(Stretch part, int holder) const {
    Best next{-INFINITY, 0x7fffffff};
    for (int id = part.first + lane() * kPiece + 4 * holder; id < part.end; id += kWarp * kPiece) {
      const float4 four = row_.four_at(id, part.end);
      const float logits[4] = {four.x, four.y, four.z, four.w};
      for (int i = 0; i < 4; ++i) {
        const Best other{logits[i], id + i};
        if (other.index < part.end && is_after(best_, other)) next = better(next, other);
      }
    }
    return warp_best(next);
  }

  const Row row_;
  Best* shared_;
  Best own_{-INFINITY, 0x7fffffff};  // the first of this thread's tokens that was not taken
  Best best_{-INFINITY, 0x7fffffff};
};

__device__ uint64_t weight_of(const Row& row, float largest, uint64_t* shared) {
  uint64_t sum = 0;
  row.walk(row.all().part(static_cast<int>(threadIdx.x) / kWarp), [&](int, float logit) {
    sum += sampling_weight(sampling_distance(logit, largest, kNaturalSteepness));
  });
  return block_reduce<kRowThreads>(sum, Sum(), shared);
}

__global__ void __launch_bounds__(kRowThreads)
    rank_kernel(const float* logits, int vocab, const LogitRow* rows, const int32_t* ids, TokenRanks* ranks) {
  __shared__ Best best[kRowWarps];
  __shared__ uint64_t sums[kRowWarps];
  const int likeliest = rows[blockIdx.x].likeliest;
  if (likeliest < 0) return;
  const float* raw = rows[blockIdx.x].raw;
  if (raw == nullptr) raw = logits + static_cast<int64_t>(blockIdx.x) * vocab;
  const Row row(raw, vocab);
  TokenRanks& to = ranks[blockIdx.x];
  Ranking ranking(row, best);
  const float largest = ranking.best().logit;
  const uint64_t weight = weight_of(row, largest, sums);
  if (threadIdx.x == 0) {
    const int id = ids[blockIdx.x];
    to.weight = weight, to.largest = largest;
    to.own = id < vocab ? raw[id] : largest;  // of a row without a number none was drawn
  }
  for (int i = 0; i < likeliest; ++i) {
    if (i > 0) ranking.advance();
    if (threadIdx.x == 0) to.ids[i] = ranking.best().index, to.logits[i] = ranking.best().logit;
  }
}

}  // namespace

void change_logits(Queue& queue, const ChangeLogitsParams& params) {
  const auto vocab = static_cast<int>(params.logits.shape[1]);
  const dim3 grid(grid_x(ceil_div(vocab, kTokens), "change_logits"),
                  grid_yz(params.logits.shape[0], "change_logits"));
  auto* logits = device_ptr<float>(params.logits);
  if (params.keeps_raw) {
    keep_kernel<<<grid, kThreads, 0, stream_of(queue)>>>(logits, vocab, params.rows);
    check_launch("change_logits");
  }
  change_kernel<<<grid, kThreads, 0, stream_of(queue)>>>(logits, vocab, params.rows);
  check_launch("change_logits");
}

void rank_tokens(Queue& queue, const RankTokensParams& params) {
  rank_kernel<<<grid_x(params.logits.shape[0], "rank_tokens"), kRowThreads, 0, stream_of(queue)>>>(
      device_ptr<float>(params.logits), static_cast<int>(params.logits.shape[1]), params.rows,
      device_ptr<int32_t>(params.ids), params.ranks);
  check_launch("rank_tokens");
}

}  // namespace shadowkv::cuda
