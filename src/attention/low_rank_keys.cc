#include "attention/low_rank_keys.h"

#include "attention/fill.h"
#include "attention/methods.h"
#include "attention/shadow_index.h"

namespace shadowkv {
namespace {

int64_t row_bytes(int64_t rank, DType type) {
  return rank * size_of(type) + (type == DType::i8 ? size_of(DType::bf16) : 0);
}

}  // namespace

LowRankKeys::LowRankKeys(const AttentionConfig& config, const AttentionShape& shape, Segments& segments,
                         Device& device)
    : shape_(shape),
      segments_(segments),
      device_(device),
      rank_(config.rank),
      chunk_(config.chunk_size),
      type_(storage_dtype(config.factors, shape.compute)),
      store_(device, {.block_tokens = block_tokens_for(config.chunk_size),
                      .token_bytes = shape.layers * row_bytes(config.rank, type_),
                      .purpose = Purpose::factors}) {}

// A block holds, per layer: factors [tokens, rank], then with int8 their scales [tokens].
QuantizedView LowRankKeys::factors(int64_t layer) {
  const int64_t block = store_.config().block_tokens;
  QuantizedView view;
  view.data = store_.view(device_.compute(), 0, false);
  view.data.dtype = type_;
  view.data.token_bytes = rank_ * size_of(type_);
  view.data.offset = layer * block * row_bytes(rank_, type_);
  view.scales = view.data;
  view.scales.dtype = DType::bf16;
  view.scales.token_bytes = size_of(DType::bf16);
  view.scales.offset = view.data.offset + block * view.data.token_bytes;
  return view;
}

void LowRankKeys::add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const {
  std::vector<int64_t> arrays;
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    arrays.push_back(rank_ * size_of(type_));
    if (type_ == DType::i8) arrays.push_back(size_of(DType::bf16));
  }
  store_.add_memory(row, tokens, arrays, to);
}

void LowRankKeys::fill(int64_t row, int64_t tokens, uint64_t seed) {
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    fill_rows(device_.compute(), factors(layer),
              {.row = row, .tokens = tokens, .elements = rank_, .seed = seed + static_cast<uint64_t>(layer)});
  }
}

void LowRankKeys::append(Queue& queue, int64_t layer, const TensorView& k_raw, const TokenBatch& tokens) {
  project_keys(queue, {.x = k_raw,
                       .tokens = tokens,
                       .mean = segments_.mean(queue, layer),
                       .basis = segments_.basis(queue, layer),
                       .rank = rank_,
                       .factors = factors(layer)});
}

RebuildKeysParams LowRankKeys::rebuilding(Queue& queue, int64_t layer, const Chunks& chunks,
                                          const RopeView& rope, TensorView out) {
  return {.batch = chunks.batch,
          .missing = chunks.missing,
          .factors = factors(layer),
          .mean = segments_.mean(queue, layer),
          .basis = segments_.basis(queue, layer),
          .rank = rank_,
          .rope = rope,
          .out = out,
          .chunk = chunk_,
          .head_dim = shape_.head_dim};
}

void LowRankKeys::rebuild(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& rope,
                          TensorView out) {
  rebuild_keys(queue, rebuilding(queue, layer, chunks, rope, out));
}

void LowRankKeys::rebuild_and_score(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& rope,
                                    TensorView out, const Scoring& scoring) {
  shadowkv::rebuild_and_score(queue, {.rebuild = rebuilding(queue, layer, chunks, rope, out),
                                      .chunks = chunks.ids,
                                      .found = chunks.found,
                                      .q = scoring.q,
                                      .held = scoring.held,
                                      .scale = shape_.scale(),
                                      .scores = scoring.scores});
}

}  // namespace shadowkv
