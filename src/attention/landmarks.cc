// The paper's index: the mean of each chunk's rotated keys, and chunks that their mean describes badly kept
// whole (section 4.1). head_dim numbers a chunk and KV head, with a scale where they are int8.
#include "attention/chunk_index.h"
#include "attention/fill.h"
#include "attention/methods.h"

namespace shadowkv {
namespace {

class LandmarkIndex final : public ChunkIndex {
 public:
  LandmarkIndex(const AttentionConfig& config, const AttentionShape& shape, Device& device)
      : ChunkIndex(config.chunk_size, arrays_of(shape, storage_dtype(config.landmarks, shape.compute)),
                   device),
        config_(config),
        shape_(shape),
        device_(device),
        type_(storage_dtype(config.landmarks, shape.compute)) {}

  [[nodiscard]] bool wants_outliers() const override { return config_.outlier_chunks > 0; }

  void fill(int64_t row, int64_t tokens, uint64_t seed) override {
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      fill_rows(device_.compute(), view(layer),
                {.row = row,
                 .tokens = chunks_of(tokens),
                 .heads = shape_.kv_heads,
                 .elements = shape_.head_dim,
                 .seed = seed + static_cast<uint64_t>(layer)});
    }
  }

  // Of whole chunks; append makes the one that is not.
  void build(int64_t layer, int64_t row, const RawLayer& raw, int64_t first, const TokenBatch& /*tokens*/,
             TensorView min_cosine) override {
    const int64_t chunk = first / chunk_size(), begun = chunk * chunk_size();
    if (raw.tokens() - begun < chunk_size()) return;
    chunk_means(device_.compute(), {.k = raw.k.rows(begun, raw.tokens() - begun),
                                    .chunk = chunk_size(),
                                    .row = row,
                                    .first_chunk = chunk,
                                    .means = view(layer),
                                    .min_cosine = min_cosine});
  }

  void append(Queue& queue, int64_t layer, const TensorView& /*k*/, const DecodeBatch& batch,
              const TokenBatch& /*tokens*/, const ResidentView& resident) override {
    update_means(queue, {.batch = batch, .resident = resident, .means = view(layer)});
  }

  void score(Queue& queue, int64_t layer, const TensorView& q, const DecodeBatch& batch, TensorView scores,
             TensorView spans) override {
    landmark_scores(queue, {.q = q,
                            .batch = batch,
                            .means = view(layer),
                            .kv_heads = shape_.kv_heads,
                            .chunk = chunk_size(),
                            .local_window = config_.local_window,
                            .scale = shape_.scale(),
                            .scores = scores,
                            .spans = spans});
  }

 private:
  static std::vector<int64_t> arrays_of(const AttentionShape& shape, DType type) {
    const auto heads = static_cast<std::size_t>(shape.kv_heads);
    std::vector<int64_t> arrays;
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      arrays.insert(arrays.end(), heads, shape.head_dim * size_of(type));
      if (type == DType::i8) arrays.insert(arrays.end(), heads, size_of(DType::bf16));
    }
    return arrays;
  }
  // Of one chunk and KV head.
  [[nodiscard]] int64_t row_bytes() const {
    return shape_.head_dim * size_of(type_) + (type_ == DType::i8 ? size_of(DType::bf16) : 0);
  }

  // A block holds, per layer: means [kv_heads, chunks, head_dim], then with int8 their scales [kv_heads,
  // chunks].
  [[nodiscard]] QuantizedView view(int64_t layer) {
    const int64_t block = block_chunks();
    QuantizedView means;
    means.data = blocks(device_.compute());
    means.data.dtype = type_;
    means.data.token_bytes = shape_.head_dim * size_of(type_);
    means.data.head_offset = block * means.data.token_bytes;
    means.data.offset = layer * shape_.kv_heads * block * row_bytes();
    means.scales = means.data;
    means.scales.dtype = DType::bf16;
    means.scales.token_bytes = size_of(DType::bf16);
    means.scales.head_offset = block * size_of(DType::bf16);
    means.scales.offset = means.data.offset + shape_.kv_heads * means.data.head_offset;
    return means;
  }

  AttentionConfig config_;
  AttentionShape shape_;
  Device& device_;
  DType type_;
};

}  // namespace

std::unique_ptr<ShadowIndex> make_landmarks(const AttentionConfig& config, const AttentionShape& shape,
                                            Device& device) {
  return std::make_unique<LandmarkIndex>(config, shape, device);
}

}  // namespace shadowkv
