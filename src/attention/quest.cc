// Quest's index (Tang et al., arXiv 2406.10774): of every chunk the least and the largest of each
// number of its rotated keys, from which follows the most that any of them can score. 2 head_dim numbers a
// chunk and KV head, in the compute type, so that rounding lowers no bound.
#include "attention/fill.h"
#include "attention/shadow_index.h"
#include "cache/paged_store.h"

namespace shadowkv {
namespace {

class BoundIndex final : public ShadowIndex {
 public:
  BoundIndex(const AttentionConfig& config, const AttentionShape& shape, Device& device)
      : chunk_(config.chunk_size),
        local_window_(config.local_window),
        shape_(shape),
        device_(device),
        store_(device, {.block_tokens = block_tokens_for(config.chunk_size) / config.chunk_size,
                        .token_bytes = shape.layers * shape.kv_heads * row_bytes(),
                        .purpose = Purpose::index}) {}

  void reserve(int64_t row, int64_t tokens) override { store_.reserve(row, chunks_of(tokens)); }
  void release(int64_t row) override { store_.release(row); }
  // Of whole chunks: the next token makes the bounds of one that is not anew.
  void share(int64_t from, int64_t to, int64_t tokens) override {
    store_.share(from, to, tokens / chunk_);
    store_.reserve(to, chunks_of(tokens));
  }
  void move(int64_t row, Tier to) override { store_.move(row, to); }
  void upload_tables(Queue& queue) override { store_.upload_tables(queue); }
  [[nodiscard]] int64_t bytes_for(int64_t tokens) const override {
    return store_.bytes_for(chunks_of(tokens));
  }
  [[nodiscard]] int64_t shared_bytes(int64_t tokens) const override {
    return store_.shared_bytes(tokens / chunk_);
  }
  [[nodiscard]] int64_t held_bytes(Tier tier) const override { return store_.held_bytes(tier); }
  [[nodiscard]] bool wants_outliers() const override { return false; }

  // Of whole chunks: the bounds of one that is not are made anew with each of its tokens.
  void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const override {
    const auto heads = static_cast<std::size_t>(shape_.layers * shape_.kv_heads);
    store_.add_memory(row, tokens / chunk_, std::vector<int64_t>(heads, row_bytes()), to);
  }
  [[nodiscard]] int64_t memory_bytes(int64_t tokens) const override {
    return store_.memory_bytes(tokens / chunk_);
  }

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
    const int64_t chunk = first / chunk_, begun = chunk * chunk_;
    if (raw.tokens() - begun < chunk_) return;
    chunk_bounds(device_.compute(), {.k = raw.k.rows(begun, raw.tokens() - begun),
                                     .chunk = chunk_,
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
                         .chunk = chunk_,
                         .local_window = local_window_,
                         .scale = shape_.scale(),
                         .scores = scores,
                         .spans = spans});
  }

 private:
  [[nodiscard]] int64_t chunks_of(int64_t tokens) const { return (tokens + chunk_ - 1) / chunk_; }

  // Of one chunk and KV head.
  [[nodiscard]] int64_t row_bytes() const { return 2 * shape_.head_dim * size_of(shape_.compute); }

  // A block holds, per layer, bounds [kv_heads, chunks, 2, head_dim].
  [[nodiscard]] PagedView view(int64_t layer) {
    PagedView view = store_.view(device_.compute(), 0, false);
    view.dtype = shape_.compute;
    view.token_bytes = row_bytes();
    view.head_offset = store_.config().block_tokens * view.token_bytes;
    view.offset = layer * shape_.kv_heads * view.head_offset;
    return view;
  }

  int64_t chunk_;
  int64_t local_window_;
  AttentionShape shape_;
  Device& device_;
  PagedStore store_;
};

}  // namespace

std::unique_ptr<ShadowIndex> make_bounds(const AttentionConfig& config, const AttentionShape& shape,
                                         Device& device) {
  return std::make_unique<BoundIndex>(config, shape, device);
}

}  // namespace shadowkv
