// Quest's index (Tang et al., arXiv 2406.10774): of every chunk the least and the largest of each
// number of its rotated keys, from which follows the most that any of them can score. 2 head_dim numbers a
// chunk and KV head, in the compute type, so that rounding lowers no bound.
#include "attention/chunk_index.h"
#include "attention/fill.h"

namespace shadowkv {
namespace {

class BoundIndex final : public ChunkIndex {
 public:
  BoundIndex(const AttentionConfig& config, const AttentionShape& shape, Device& device)
      : ChunkIndex(config.chunk_size, arrays_of(shape), device),
        local_window_(config.local_window),
        shape_(shape),
        device_(device) {}

  [[nodiscard]] bool wants_outliers() const override { return false; }

  void fill(int64_t row, int64_t tokens, uint64_t seed) override {
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      fill_rows(device_.compute(), {view(layer), {}},
                {.row = row,
                 .tokens = chunks_of(tokens),
                 .heads = shape_.kv_heads,
                 .elements = 2 * shape_.head_dim,
                 .seed = seed + static_cast<uint64_t>(layer)});
    }
  }

  // Of whole chunks; append makes the one that is not.
  void build(int64_t layer, int64_t row, const RawLayer& raw, int64_t first, const TokenBatch& /*tokens*/,
             TensorView /*min_cosine*/) override {
    const int64_t chunk = first / chunk_size(), begun = chunk * chunk_size();
    if (raw.tokens() - begun < chunk_size()) return;
    chunk_bounds(device_.compute(), {.k = raw.k.rows(begun, raw.tokens() - begun),
                                     .chunk = chunk_size(),
                                     .row = row,
                                     .first_chunk = chunk,
                                     .bounds = view(layer)});
  }

  void append(Queue& queue, int64_t layer, const TensorView& /*k*/, const DecodeBatch& batch,
              const TokenBatch& /*tokens*/, const ResidentView& resident) override {
    update_bounds(queue, {.batch = batch, .resident = resident, .bounds = view(layer)});
  }

  void score(Queue& queue, int64_t layer, const TensorView& q, const DecodeBatch& batch, TensorView scores,
             TensorView spans) override {
    bound_scores(queue, {.q = q,
                         .batch = batch,
                         .bounds = view(layer),
                         .kv_heads = shape_.kv_heads,
                         .chunk = chunk_size(),
                         .local_window = local_window_,
                         .scale = shape_.scale(),
                         .scores = scores,
                         .spans = spans});
  }

 private:
  // Of one chunk and KV head.
  static int64_t row_bytes(const AttentionShape& shape) {
    return 2 * shape.head_dim * size_of(shape.compute);
  }
  static std::vector<int64_t> arrays_of(const AttentionShape& shape) {
    return std::vector<int64_t>(static_cast<std::size_t>(shape.layers * shape.kv_heads), row_bytes(shape));
  }

  // A block holds, per layer, bounds [kv_heads, chunks, 2, head_dim].
  [[nodiscard]] PagedView view(int64_t layer) {
    PagedView view = blocks(device_.compute());
    view.dtype = shape_.compute;
    view.token_bytes = row_bytes(shape_);
    view.head_offset = block_chunks() * view.token_bytes;
    view.offset = layer * shape_.kv_heads * view.head_offset;
    return view;
  }

  int64_t local_window_;
  AttentionShape shape_;
  Device& device_;
};

}  // namespace

std::unique_ptr<ShadowIndex> make_bounds(const AttentionConfig& config, const AttentionShape& shape,
                                         Device& device) {
  return std::make_unique<BoundIndex>(config, shape, device);
}

}  // namespace shadowkv
