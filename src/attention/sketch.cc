// The sketch index: one or two bits of every centred, rotated key number and a scale a token. design: d *
// bits / 8
// + 2 bytes a token and KV head; scored by log-sum-exp over each chunk's tokens.
#include "attention/shadow_index.h"
#include "cache/paged_store.h"
#include "kernels/sketch_math.h"

namespace shadowkv {
namespace {

class SketchIndex final : public ShadowIndex {
 public:
  SketchIndex(const AttentionConfig& config, const AttentionShape& shape, Segments& segments, Device& device)
      : config_(config),
        shape_(shape),
        segments_(segments),
        device_(device),
        token_bytes_(sketch_token_bytes(shape.head_dim, config.sketch_bits)),
        store_(device, {.block_tokens = block_tokens_for(config.chunk_size),
                        .token_bytes = shape.layers * shape.kv_heads * (token_bytes_ + size_of(DType::bf16)),
                        .purpose = Purpose::index}) {}

  void reserve(int64_t row, int64_t tokens) override { store_.reserve(row, tokens); }
  void release(int64_t row) override { store_.release(row); }
  void share(int64_t from, int64_t to, int64_t tokens) override { store_.share(from, to, tokens); }
  void move(int64_t row, Tier to) override { store_.move(row, to); }
  void upload_tables(Queue& queue) override { store_.upload_tables(queue); }
  [[nodiscard]] int64_t bytes_for(int64_t tokens) const override { return store_.bytes_for(tokens); }
  [[nodiscard]] int64_t shared_bytes(int64_t tokens) const override { return store_.shared_bytes(tokens); }
  [[nodiscard]] int64_t held_bytes(Tier tier) const override { return store_.held_bytes(tier); }
  [[nodiscard]] bool wants_outliers() const override { return false; }

  void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const override {
    const auto heads = static_cast<std::size_t>(shape_.kv_heads);
    std::vector<int64_t> arrays;
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      arrays.insert(arrays.end(), heads, token_bytes_);
      arrays.insert(arrays.end(), heads, size_of(DType::bf16));
    }
    store_.add_memory(row, tokens, arrays, to);
  }
  [[nodiscard]] int64_t memory_bytes(int64_t tokens) const override { return store_.memory_bytes(tokens); }

  void fill(int64_t row, int64_t tokens, uint64_t seed) override {
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      const SketchView sketch = view(layer);
      const auto fill_part = [&](const PagedView& part, int64_t elements, float low, float high) {
        randomize_rows(device_.compute(), {.to = part,
                                           .row = row,
                                           .tokens = tokens,
                                           .heads = shape_.kv_heads,
                                           .elements = elements,
                                           .low = low,
                                           .high = high,
                                           .seed = seed + static_cast<uint64_t>(layer)});
      };
      fill_part(sketch.words, token_bytes_, 0.0f, 0.0f);  // any bits
      fill_part(sketch.scales, 1, 0.3f, 0.7f);
    }
  }

  void build(int64_t layer, int64_t /*row*/, const RawLayer& raw, int64_t first, const TokenBatch& tokens,
             TensorView /*min_cosine*/) override {
    const int64_t count = raw.tokens() - first;
    const TokenBatch added{
        .count = count, .rows = tokens.rows + first, .positions = tokens.positions + first};
    sketch_encode(device_.compute(), {.k = raw.k.rows(first, count), .tokens = added, .sketch = view(layer)});
  }

  void append(Queue& queue, int64_t layer, const TensorView& k, const DecodeBatch& /*batch*/,
              const TokenBatch& tokens, const ResidentView& /*resident*/) override {
    sketch_encode(queue, {.k = k, .tokens = tokens, .sketch = view(layer)});
  }

  void score(Queue& queue, int64_t layer, const TensorView& q, const DecodeBatch& batch, TensorView scores,
             TensorView spans) override {
    sketch_scores(queue, {.q = q,
                          .batch = batch,
                          .sketch = view(layer),
                          .kv_heads = shape_.kv_heads,
                          .chunk = config_.chunk_size,
                          .local_window = config_.local_window,
                          .scale = shape_.scale(),
                          .scores = scores,
                          .spans = spans});
  }

 private:
  // A block holds, per layer: words [kv_heads, tokens], then scales [kv_heads, tokens].
  [[nodiscard]] SketchView view(int64_t layer) {
    const int64_t block = store_.config().block_tokens;
    const int64_t layer_bytes = block * shape_.kv_heads * (token_bytes_ + size_of(DType::bf16));
    SketchView view;
    view.bits = config_.sketch_bits;
    view.centre = segments_.centre(device_.compute(), layer);
    view.words = store_.view(device_.compute(), 0, false);
    view.words.dtype = DType::u8;
    view.words.token_bytes = token_bytes_;
    view.words.head_offset = block * token_bytes_;
    view.words.offset = layer * layer_bytes;
    view.scales = view.words;
    view.scales.dtype = DType::bf16;
    view.scales.token_bytes = size_of(DType::bf16);
    view.scales.head_offset = block * size_of(DType::bf16);
    view.scales.offset = layer * layer_bytes + shape_.kv_heads * view.words.head_offset;
    return view;
  }

  AttentionConfig config_;
  AttentionShape shape_;
  Segments& segments_;
  Device& device_;
  int64_t token_bytes_;
  PagedStore store_;
};

}  // namespace

std::unique_ptr<ShadowIndex> make_sketch(const AttentionConfig& config, const AttentionShape& shape,
                                         Segments& segments, Device& device) {
  return std::make_unique<SketchIndex>(config, shape, segments, device);
}

}  // namespace shadowkv
