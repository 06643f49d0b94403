// Keys as low-rank factors of their form before rotation: every token's row of left factors, against its
// segment's mean and basis. Section 4.1 of the paper, with the mean taken out first.
#include "attention/chunk_keys.h"
#include "attention/fill.h"
#include "attention/methods.h"
#include "attention/shadow_index.h"
#include "attention/trace.h"
#include "cache/paged_store.h"

namespace shadowkv {
namespace {

int64_t row_bytes(int64_t rank, DType type) {
  return rank * size_of(type) + (type == DType::i8 ? size_of(DType::bf16) : 0);
}

class LowRankKeys final : public ChunkKeys {
 public:
  LowRankKeys(const AttentionConfig& config, const AttentionShape& shape, Segments& segments, Device& device);

  void reserve(int64_t row, int64_t tokens) override { store_.reserve(row, tokens); }
  void release(int64_t row) override { store_.release(row); }
  void share(int64_t from, int64_t to, int64_t tokens) override { store_.share(from, to, tokens); }
  void move(int64_t row, Tier to) override { store_.move(row, to); }
  void upload_tables(Queue& queue) override { store_.upload_tables(queue); }
  [[nodiscard]] int64_t bytes_for(int64_t tokens) const override { return store_.bytes_for(tokens); }
  [[nodiscard]] int64_t shared_bytes(int64_t tokens) const override { return store_.shared_bytes(tokens); }
  [[nodiscard]] int64_t held_bytes(Tier tier) const override { return store_.held_bytes(tier); }

  void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const override;
  [[nodiscard]] int64_t memory_bytes(int64_t tokens) const override { return store_.memory_bytes(tokens); }

  void fill(int64_t row, int64_t tokens, uint64_t seed) override;
  // Projects keys before rotation onto their segments' bases.
  void append(Queue& queue, int64_t layer, const NewKeys& keys, const TokenBatch& tokens) override;
  [[nodiscard]] KeyError error_of(int64_t layer, const OneKey& key) override;
  void rebuild(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& rope,
               TensorView out) override;
  void rebuild_and_score(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& rope,
                         TensorView out, const Scoring& scoring) override;

 private:
  [[nodiscard]] QuantizedView factors(int64_t layer);
  [[nodiscard]] RebuildKeysParams rebuilding(Queue& queue, int64_t layer, const Chunks& chunks,
                                             const RopeView& rope, TensorView out);

  AttentionShape shape_;
  Segments& segments_;
  Device& device_;
  int64_t rank_;
  int64_t chunk_;
  DType type_;
  PagedStore store_;
};

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

void LowRankKeys::append(Queue& queue, int64_t layer, const NewKeys& keys, const TokenBatch& tokens) {
  project_keys(queue, {.x = keys.raw,
                       .tokens = tokens,
                       .mean = segments_.mean(queue, layer),
                       .basis = segments_.basis(queue, layer),
                       .rank = rank_,
                       .factors = factors(layer)});
}

KeyError LowRankKeys::error_of(int64_t layer, const OneKey& key) {
  Queue& queue = device_.compute();
  const DType type = device_.activation_dtype();
  const Buffer memory = device_.allocate(Tier::device, Purpose::prompts, rank_ * size_of(type));
  const TensorView kept(memory.data(), type, {1, 1, rank_});
  load_rows(queue, {.from = factors(layer), .row = key.row, .first = key.position, .out = kept});
  const Segments::Description of = segments_.description(key.row, layer, key.position);
  return key_error({.x = read_numbers(queue, key.raw),
                    .mean = read_numbers(queue, of.mean),
                    .basis = read_numbers(queue, of.basis),
                    .factors = read_numbers(queue, kept)});
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

}  // namespace

std::unique_ptr<ChunkKeys> make_low_rank_keys(const AttentionConfig& config, const AttentionShape& shape,
                                              Segments& segments, Device& device) {
  return std::make_unique<LowRankKeys>(config, shape, segments, device);
}

}  // namespace shadowkv
