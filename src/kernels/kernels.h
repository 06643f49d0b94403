// Every operation of the engine, declared once. kernels.cc checks shapes and hands each to its twin for the
// queue's device: cpu/<op>.cc is the plain, exact reference and cuda/<op>.cu must agree with it.
//
// Letters in shapes: T tokens of a slice, B sequences of a decode step, H query heads, G KV heads (query head
// h belongs to KV head h / (H / G)), D head_dim, W = G * D, R rank, C chunk entries per sequence, M
// candidates, K chosen chunks. Activations are float32 on the CPU and bfloat16 on a GPU; scores and lse are
// float32. Every op throws InvalidInput when shapes disagree. Results of a token or sequence never depend on
// what else is in the batch.
#pragma once

#include <cstdint>
#include <vector>

#include "base/device.h"
#include "base/tensor.h"
#include "kernels/logit_math.h"
#include "kernels/matrix.h"
#include "kernels/sampling_math.h"
#include "kernels/views.h"

namespace shadowkv {

// ---- dense layers ---------------------------------------------------------------------------------------

struct EmbedParams {
  Matrix table;    // [vocab, hidden]
  TensorView ids;  // [T] int32, all in [0, vocab)
  TensorView out;  // [T, hidden]
};
void embed(Queue& queue, const EmbedParams& params);

// out = x / rms(x) * weight (+ out, when accumulate); sums in float32.
struct RmsNormParams {
  TensorView x;       // [T, hidden]
  TensorView weight;  // [hidden] float32
  double eps;
  TensorView out;  // [T, hidden]; may be x unless it accumulates
  bool accumulate = false;
};
void rms_norm(Queue& queue, const RmsNormParams& params);

// out = x weight^T (+ bias) (+ out, when accumulate).
struct MatmulParams {
  TensorView x;     // [T, in]
  Matrix weight;    // [out, in]
  TensorView bias;  // [out] float32, or empty
  TensorView out;   // [T, out], on a GPU bfloat16 or float32
  bool accumulate = false;
};
void matmul(Queue& queue, const MatmulParams& params);

// Several products of one x: out = x weight^T (+ bias) of each. A GPU takes few tokens by all weights at
// once.
struct MatmulGroupParams {
  struct Product {
    Matrix weight;      // [out, in]
    TensorView out;     // [T, out], on a GPU bfloat16 or float32
    TensorView bias{};  // [out] float32, or empty
  };
  TensorView x;  // [T, in]
  std::vector<Product> products;
};
void matmul_group(Queue& queue, const MatmulGroupParams& params);

// out = silu(gate) * up.
struct SiluMulParams {
  TensorView gate;  // [T, inner]
  TensorView up;    // [T, inner]
  TensorView out;   // [T, inner]; may be gate
};
void silu_mul(Queue& queue, const SiluMulParams& params);

// Turns (or, inverse, turns back) the first rotary_dim numbers of every head by its position.
struct RotateParams {
  TensorView x;          // [T, heads, D]
  TensorView positions;  // [T] int32
  RopeView rope;
  bool inverse = false;
  TensorView out;                 // [T, heads, D]; may be x
  const int32_t* rows = nullptr;  // [T] sequence rows; needed where rope.by_row is
};
void rotate(Queue& queue, const RotateParams& params);

// ---- exact attention --------------------------------------------------------------------------------------

// Causal attention of T queries at positions first_position .. over keys and values of positions 0 .. N - 1,
// N >= first_position + T. Key blocks are walked from position 0 in fixed steps, so slices change nothing.
struct PrefillAttentionParams {
  TensorView q;  // [T, H, D] rotated
  TensorView k;  // [N, G, D] rotated
  TensorView v;  // [N, G, D]
  int64_t first_position;
  float scale;     // of q . k; 1 / sqrt(D) as a rule
  TensorView out;  // [T, H, D]
};
void prefill_attention(Queue& queue, const PrefillAttentionParams& params);

// Writes rows into paged storage, rounding or quantising to its type.
struct StoreRowsParams {
  TensorView x;  // [T, heads, n]
  TokenBatch tokens;
  QuantizedView to;
};
void store_rows(Queue& queue, const StoreRowsParams& params);

// Reads rows [first, first + T) of one sequence row back.
struct LoadRowsParams {
  QuantizedView from;
  int64_t row;
  int64_t first;
  TensorView out;  // [T, heads, n]
};
void load_rows(Queue& queue, const LoadRowsParams& params);

// One query a sequence over all of its paged keys and values. Bound: bytes of the keys and values.
struct PagedAttentionParams {
  TensorView q;  // [B, H, D] rotated
  DecodeBatch batch;
  QuantizedView keys;  // rotated
  QuantizedView values;
  int64_t kv_heads;
  float scale;
  TensorView out;  // [B, H, D]
  TensorView lse;  // [B, H] float32, natural log of the sum of exp(scale * q . k)
};
void paged_attention(Queue& queue, const PagedAttentionParams& params);

// ---- low-rank keys ----------------------------------------------------------------------------------------

// mean[c] = average of x[:, c], summed in float64 on the CPU, in a fixed order.
struct ColumnMeanParams {
  TensorView x;     // [T, W]
  TensorView mean;  // [W] float32
};
void column_mean(Queue& queue, const ColumnMeanParams& params);

// basis: R orthonormal rows for the leading right singular vectors of x - mean, through the Gram matrix: on
// the CPU these, largest first; on a GPU rows that span nearly their space, with R = W unit vectors
// (cuda/fit_basis.cc). With fewer than R tokens the rest completes the orthonormal set. Rows are rounded to
// basis's type.
struct FitBasisParams {
  TensorView x;      // [T, W] pre-rotary keys
  TensorView mean;   // [W] float32
  TensorView basis;  // [R, W] float32 or bfloat16
};
void fit_basis(Queue& queue, const FitBasisParams& params);

// Left factors a = (x - mean) basis^T of each token's own segment, stored as rows of one head of length R.
struct ProjectKeysParams {
  TensorView x;  // [T, G, D] pre-rotary keys
  TokenBatch tokens;
  PagedView mean;   // per segment: [W] float32
  PagedView basis;  // per segment: [R, W] float32 or bfloat16
  int64_t rank;
  QuantizedView factors;  // [R] a token
};
void project_keys(Queue& queue, const ProjectKeysParams& params);

// Rotated keys of listed candidates from their factors: mean + a basis, turned in float32, rounded to out's
// type. The out of candidates that are not listed is left alone.
struct RebuildKeysParams {
  DecodeBatch batch;
  TensorView missing;  // [B, G, M, 2] int32: candidate and its chunk, ascending, those to be rebuilt; then -1
  QuantizedView factors;
  PagedView mean;
  PagedView basis;
  int64_t rank;
  RopeView rope;
  TensorView out;  // [B, G, M, chunk * D] float32 or bfloat16, by candidate
  int64_t chunk;
  int64_t head_dim;
};
void rebuild_keys(Queue& queue, const RebuildKeysParams& params);

// Keys kept as they are of listed candidates: what rebuild_keys is where nothing was taken away. Bound: bytes
// of the listed chunks.
struct GatherKeysParams {
  DecodeBatch batch;
  TensorView missing;  // [B, G, M, 2] int32 as rebuild_keys has it
  PagedView keys;      // rotated, in out's type
  TensorView out;      // [B, G, M, chunk * D] float32 or bfloat16, by candidate
  int64_t chunk;
  int64_t head_dim;
};
void gather_keys(Queue& queue, const GatherKeysParams& params);

// ---- index: sketch ----------------------------------------------------------------------------------------

// One or two bits a number of the centred, Hadamard-rotated key, and one scale a token (sketch_math.h).
struct SketchView {
  PagedView words;   // per token and KV head, D * bits / 8 bytes, packed as sketch_math.h says
  PagedView scales;  // per token and KV head, bfloat16
  PagedView centre;  // per segment: [G, D] float32, centre of the rotated keys
  int64_t bits;      // 1 or 2
};

struct SketchEncodeParams {
  TensorView k;  // [T, G, D] rotated
  TokenBatch tokens;
  SketchView sketch;
};
void sketch_encode(Queue& queue, const SketchEncodeParams& params);

// A span is 16 scores that lie together, the last of a row what is left. Tensors of spans [B, H, ceil(C /
// 16), 2] float32 hold the largest score of each and the sum of exp(score - largest); -infinity and 0 where
// every score is -infinity. They are an index of the scores: who looks for the best need not read the rest.
inline constexpr int64_t kSpanScores = 16;

// scores[b, h, c] = log-sum-exp over the tokens of chunk c of scale * (estimate of q . k), for chunks open to
// selection ([1, sealed_chunks)); -infinity for all others up to C. Bound: bytes of words and scales.
struct SketchScoresParams {
  TensorView q;  // [B, H, D] rotated
  DecodeBatch batch;
  SketchView sketch;
  int64_t kv_heads;
  int64_t chunk;
  int64_t local_window;
  float scale;
  TensorView scores;  // [B, H, C] float32
  TensorView spans;   // of the scores, or empty
};
void sketch_scores(Queue& queue, const SketchScoresParams& params);

// ---- index: landmarks -------------------------------------------------------------------------------------

// Means of the rotated keys of each whole chunk in k, and how well the worst key of the chunk agrees with it
// (least cosine; section 4.1 of the paper). k starts at a chunk boundary.
struct ChunkMeansParams {
  TensorView k;  // [T, G, D] rotated
  int64_t chunk;
  int64_t row;
  int64_t first_chunk;
  QuantizedView means;    // per chunk and KV head, [D]; its "tokens" are chunks
  TensorView min_cosine;  // [G, T / chunk] float32 of the means before they are rounded, or empty
};
void chunk_means(Queue& queue, const ChunkMeansParams& params);

// Means of the chunk that each sequence's latest token belongs to, over its tokens so far, from the ring.
struct UpdateMeansParams {
  DecodeBatch batch;
  ResidentView resident;
  QuantizedView means;
};
void update_means(Queue& queue, const UpdateMeansParams& params);

// scores[b, h, c] = scale * q . mean of chunk c, and -infinity as in sketch_scores.
struct LandmarkScoresParams {
  TensorView q;  // [B, H, D] rotated
  DecodeBatch batch;
  QuantizedView means;
  int64_t kv_heads;
  int64_t chunk;
  int64_t local_window;
  float scale;
  TensorView scores;  // [B, H, C] float32
  TensorView spans;   // of the scores, or empty
};
void landmark_scores(Queue& queue, const LandmarkScoresParams& params);

// Sets the scores of each KV head's outlier chunks to -infinity: they are attended anyway.
struct MaskOutliersParams {
  DecodeBatch batch;
  ResidentView resident;
  TensorView scores;  // [B, H, C] float32
  TensorView spans;   // of the scores, kept true; or empty
};
void mask_outliers(Queue& queue, const MaskOutliersParams& params);

// ---- index: bounds ----------------------------------------------------------------------------------------

// Of each whole chunk in k, the least and the largest of every number of its rotated keys (Quest,
// arXiv 2406.10774). k starts at a chunk boundary.
struct ChunkBoundsParams {
  TensorView k;  // [T, G, D] rotated
  int64_t chunk;
  int64_t row;
  int64_t first_chunk;
  PagedView bounds;  // per chunk and KV head, least [D] then largest [D]; its "tokens" are chunks
};
void chunk_bounds(Queue& queue, const ChunkBoundsParams& params);

// Bounds of the chunk that each sequence's latest token belongs to, over its tokens so far, from the ring.
struct UpdateBoundsParams {
  DecodeBatch batch;
  ResidentView resident;
  PagedView bounds;
};
void update_bounds(Queue& queue, const UpdateBoundsParams& params);

// scores[b, h, c] = scale * sum over d of max(q[d] * least[d], q[d] * largest[d]): no key of chunk c has
// more; and -infinity as in sketch_scores. Bound: bytes of the bounds.
struct BoundScoresParams {
  TensorView q;  // [B, H, D] rotated
  DecodeBatch batch;
  PagedView bounds;
  int64_t kv_heads;
  int64_t chunk;
  int64_t local_window;
  float scale;
  TensorView scores;  // [B, H, C] float32
  TensorView spans;   // of the scores, or empty
};
void bound_scores(Queue& queue, const BoundScoresParams& params);

// ---- selection --------------------------------------------------------------------------------------------

// ranking[b, g, i] = max over the query heads of g of (score - that head's log-sum-exp over all i): the order
// of the largest softmax share (Algorithm 2 of the paper), in float32. Rows of -infinity stay so.
struct RankGroupsParams {
  TensorView scores;   // [B, H, C] float32
  TensorView ranking;  // [B, G, C] float32
};
void rank_groups(Queue& queue, const RankGroupsParams& params);

// The limits[b] best entries above -infinity of each row, in ascending index order, then -1. Of equal entries
// the lower index wins.
struct TopKParams {
  TensorView ranking;     // [B, G, C] float32
  const int32_t* limits;  // [B] at most K
  TensorView chosen;      // [B, G, K] int32
};
void top_k(Queue& queue, const TopKParams& params);

// What rank_groups and then top_k choose, without a ranking of everything: entries are looked for in the
// spans that hold the best.
struct ChooseGroupsParams {
  TensorView scores;      // [B, H, C] float32
  TensorView spans;       // of the scores, or empty
  const int32_t* limits;  // [B] at most K
  TensorView lse;     // [B, H] float32 out: log-sum-exp of each head's scores, which the ranking subtracts
  TensorView chosen;  // [B, G, K] int32
};
void choose_groups(Queue& queue, const ChooseGroupsParams& params);

// For benchmarks: a choice that has been paid for gives way to one of which a given share is found in the
// slots. The open chunks [1, sealed_chunks) are cut into M strata; candidate i takes a chunk of stratum i. Of
// the K picks, candidates i * (M / K), only round((1 - share) * K) change from one length of the sequence to
// the next, in turn; other candidates change always. Needs M open chunks, M a multiple of K.
struct ForcedHits {
  double share = -1;         // [0, 1]; negative: choices stand
  int64_t picks = 0;         // K
  int64_t local_window = 0;  // tokens
};

// found[b, g, i] = the slot that holds chunk chunks[b, g, i], or -1.
struct FindSlotsParams {
  DecodeBatch batch;
  TensorView chunks;  // [B, G, M] int32, -1: none
  SlotView slots;
  TensorView found;    // [B, G, M] int32
  TensorView missing;  // [B, G, M, 2] int32: i and chunks[b, g, i] of those in no slot, by i; then -1
};
void find_slots(Queue& queue, const FindSlotsParams& params);

// scores[b, h, i] = log-sum-exp over the tokens of candidate i of scale * q . key, keys from its slot or,
// without one, from `rebuilt`; -infinity where there is no candidate.
struct CandidateScoresParams {
  TensorView q;  // [B, H, D] rotated
  DecodeBatch batch;
  TensorView chunks;   // [B, G, M] int32
  TensorView found;    // [B, G, M] int32
  TensorView rebuilt;  // [B, G, M, chunk * D]
  SlotView slots;
  float scale;
  TensorView scores;  // [B, H, M] float32
};
void candidate_scores(Queue& queue, const CandidateScoresParams& params);

// rebuild_keys, then candidate_scores: in one launch where a device has one for the shape.
struct RebuildAndScoreParams {
  RebuildKeysParams rebuild;  // out in the type of `held`
  TensorView chunks;          // [B, G, M] int32, -1: none
  TensorView found;           // [B, G, M] int32 their slots, -1: rebuilt
  TensorView q;               // [B, H, D] rotated
  SlotView held;
  float scale;
  TensorView scores;  // [B, H, M] float32

  [[nodiscard]] CandidateScoresParams score() const {
    return {q, rebuild.batch, chunks, found, rebuild.out, held, scale, scores};
  }
};
void rebuild_and_score(Queue& queue, const RebuildAndScoreParams& params);

// Gives every picked chunk a slot: the one that holds it, else the least recently used slot that this step
// has not picked (lowest stamp, then lowest slot; empty slots first). Updates ids and stamps.
struct AssignSlotsParams {
  DecodeBatch batch;
  TensorView chunks;  // [B, G, M] int32 candidates
  TensorView found;   // [B, G, M] int32 their slots before this step
  TensorView picked;  // [B, G, K] int32 indices into the candidates, -1: none; empty: all of them (K = M)
  SlotView slots;
  TensorView assigned;  // [B, G, K] int32 slot of each picked chunk, -1: none
  TensorView source;    // [B, G, K] int32 candidate to fill the slot from, -1: already there (a hit)
  int64_t* counters;    // [2] device: chunks picked, hits among them; added to
};
void assign_slots(Queue& queue, const AssignSlotsParams& params);

// Copies rebuilt keys into the slots of misses.
struct FillKeysParams {
  DecodeBatch batch;
  TensorView assigned;  // [B, G, K] int32
  TensorView source;    // [B, G, K] int32
  TensorView rebuilt;   // [B, G, M, chunk * D] in the slots' type
  SlotView slots;
};
void fill_keys(Queue& queue, const FillKeysParams& params);

// choose_groups, then find_slots of what it chose: in one launch on a GPU.
struct ChooseCandidatesParams {
  TensorView scores;      // [B, H, C] float32
  TensorView spans;       // of the scores, or empty
  const int32_t* limits;  // [B] at most M
  TensorView lse;         // [B, H] float32 out
  DecodeBatch batch;
  SlotView slots;
  ForcedHits forced;
  TensorView candidates;  // [B, G, M] int32 out
  TensorView found;       // [B, G, M] int32 out
  TensorView missing;     // [B, G, M, 2] int32 out

  [[nodiscard]] ChooseGroupsParams choose() const { return {scores, spans, limits, lse, candidates}; }
  [[nodiscard]] FindSlotsParams find() const { return {batch, candidates, slots, found, missing}; }
};
void choose_candidates(Queue& queue, const ChooseCandidatesParams& params);

// choose_groups of the candidates, then assign_slots of what it chose: in one launch on a GPU.
struct PickCandidatesParams {
  TensorView scores;         // [B, H, M] float32
  const int32_t* limits;     // [B] at most K
  TensorView lse;            // [B, H] float32 out
  ForcedHits forced;         // as choose_candidates had it
  AssignSlotsParams assign;  // `picked` is out too

  [[nodiscard]] ChooseGroupsParams choose() const { return {scores, {}, limits, lse, assign.picked}; }
};
void pick_candidates(Queue& queue, const PickCandidatesParams& params);

// Brings the values of misses into their slots from wherever their run lies. On a GPU bound by the host link
// for runs in host memory.
struct GatherValuesParams {
  DecodeBatch batch;
  TensorView chunks;    // [B, G, M] int32 candidates
  TensorView assigned;  // [B, G, K] int32
  TensorView source;    // [B, G, K] int32
  QuantizedView values;
  SlotView slots;
  bool over_link = false;  // some lie in host memory: leave most of a GPU to others meanwhile
  bool spares = false;     // likewise: hardly be in the others' way, at a lower rate of the link
};
void gather_values(Queue& queue, const GatherValuesParams& params);

// ---- attention over what is held --------------------------------------------------------------------------

// Writes rotated keys and values of tokens into the first chunk (positions below chunk) and the ring.
struct StoreResidentParams {
  TensorView k;       // [T, G, D] rotated
  TensorView v;       // [T, G, D]
  TokenBatch tokens;  // of the ring's last ring_tokens positions, or of the first chunk
  ResidentView resident;
};
void store_resident(Queue& queue, const StoreResidentParams& params);

// Copies outlier chunks out of a prompt's keys and values and notes their ids.
struct StoreOutliersParams {
  TensorView k;       // [T, G, D] rotated, whole prompt from position 0
  TensorView v;       // [T, G, D]
  TensorView chunks;  // [1, G, n] int32 chunk ids, -1: none
  int64_t row;
  int64_t first_entry;  // outlier entries already filled by earlier segments
  ResidentView resident;
};
void store_outliers(Queue& queue, const StoreOutliersParams& params);

// Attention over first chunk, outliers and ring.
struct ResidentAttentionParams {
  TensorView q;  // [B, H, D] rotated
  DecodeBatch batch;
  ResidentView resident;
  float scale;
  TensorView out;  // [B, H, D]
  TensorView lse;  // [B, H] float32
};
void resident_attention(Queue& queue, const ResidentAttentionParams& params);

// Attention over the assigned slots, merged with the attention over other tokens that `out` and `lse` hold.
struct SlotAttentionParams {
  TensorView q;  // [B, H, D] rotated
  DecodeBatch batch;
  TensorView assigned;  // [B, G, K] int32
  SlotView slots;
  float scale;
  TensorView out;  // [B, H, D] in and out
  TensorView lse;  // [B, H] float32 in and out, -infinity: over no token
};
void slot_attention(Queue& queue, const SlotAttentionParams& params);

// ---- sampling ---------------------------------------------------------------------------------------------

// Changes logits in place as rows[b] says (logit_math.h): biases, then penalties, then -infinity for tokens
// that may not be drawn. What is fresh is put in its place in the row's memory. Rows that say nothing are not
// touched. The same on every device, to the bit. Bound: bytes: 12 and 8 a marked token; a bit and, where it
// is forbidden, 4 bytes a token; 8 a token for rows that keep what was.
struct ChangeLogitsParams {
  TensorView logits;       // [B, vocab] float32
  const LogitRow* rows;    // [B] device
  bool keeps_raw = false;  // whether any row does
};
void change_logits(Queue& queue, const ChangeLogitsParams& params);

// ids[b] = a token of row b, drawn as rows[b] says (sampling_math.h): the likeliest, the lowest of equals, or
// one of all or the best by their softmax share. The same on every device, to the bit.
struct SampleTokensParams {
  TensorView logits;        // [B, vocab] float32
  const SamplingRow* rows;  // [B] device
  TensorView ids;           // [B] int32
};
void sample_tokens(Queue& queue, const SampleTokensParams& params);

// ranks[b] = what the log-probabilities of ids[b] and of the likeliest tokens are made of, where rows[b] asks
// for it: of the logits as they were. The same on every device, to the bit. Bound: bytes: two reads of a
// row's logits, the second from the L2 cache.
struct RankTokensParams {
  TensorView logits;     // [B, vocab] float32
  const LogitRow* rows;  // [B] device
  TensorView ids;        // [B] int32
  TokenRanks* ranks;     // [B] device
};
void rank_tokens(Queue& queue, const RankTokensParams& params);

// ---- made-up state for benchmarks -------------------------------------------------------------------------

// Fills the first `tokens` rows of a sequence row's storage with reproducible random numbers: uniform in
// [low, high] for floats and int8, any byte for uint8.
struct RandomizeRowsParams {
  PagedView to;
  int64_t row;
  int64_t tokens;
  int64_t heads;
  int64_t elements;  // a row, of to.dtype
  float low, high;
  uint64_t seed;
};
void randomize_rows(Queue& queue, const RandomizeRowsParams& params);

// ---- ceilings for benchmarks ------------------------------------------------------------------------------

// Reads memory from end to end: folded = exclusive or of all numbers. Bound: bytes.
struct ReadMemoryParams {
  TensorView from;    // [n] int64, n even
  TensorView folded;  // [1] int64
};
void read_memory(Queue& queue, const ReadMemoryParams& params);

// out[i] = piece ids[i] of from, which may lie in host memory: what fetching misses is at its simplest.
// Bound: bytes of out over the rate of the memory that `from` lies in.
struct GatherPiecesParams {
  TensorView from;  // [pieces, n] uint8, n a multiple of 16
  TensorView ids;   // [T] int32, all in [0, pieces)
  TensorView out;   // [T, n] uint8
};
void gather_pieces(Queue& queue, const GatherPiecesParams& params);

}  // namespace shadowkv
