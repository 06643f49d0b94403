// Keys of all tokens as they are, rotated and in the compute type, paged on the device: head_dim numbers a
// token and KV head.
#include "attention/chunk_keys.h"
#include "attention/fill.h"
#include "attention/shadow_index.h"
#include "cache/paged_store.h"

namespace shadowkv {
namespace {

class WholeKeys final : public ChunkKeys {
 public:
  WholeKeys(const AttentionConfig& config, const AttentionShape& shape, Device& device)
      : shape_(shape),
        device_(device),
        chunk_(config.chunk_size),
        store_(device, {.block_tokens = block_tokens_for(config.chunk_size),
                        .token_bytes = shape.layers * shape.kv_heads * row_bytes(),
                        .purpose = Purpose::keys_values}) {}

  void reserve(int64_t row, int64_t tokens) override { store_.reserve(row, tokens); }
  void release(int64_t row) override { store_.release(row); }
  void share(int64_t from, int64_t to, int64_t tokens) override { store_.share(from, to, tokens); }
  void move(int64_t row, Tier to) override { store_.move(row, to); }
  void upload_tables(Queue& queue) override { store_.upload_tables(queue); }
  [[nodiscard]] int64_t bytes_for(int64_t tokens) const override { return store_.bytes_for(tokens); }
  [[nodiscard]] int64_t shared_bytes(int64_t tokens) const override { return store_.shared_bytes(tokens); }
  [[nodiscard]] int64_t held_bytes(Tier tier) const override { return store_.held_bytes(tier); }

  void add_memory(int64_t row, int64_t tokens, std::vector<MemoryPiece>& to) const override {
    const auto heads = static_cast<std::size_t>(shape_.layers * shape_.kv_heads);
    store_.add_memory(row, tokens, std::vector<int64_t>(heads, row_bytes()), to);
  }
  [[nodiscard]] int64_t memory_bytes(int64_t tokens) const override { return store_.memory_bytes(tokens); }

  void fill(int64_t row, int64_t tokens, uint64_t seed) override {
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      fill_rows(device_.compute(), {view(layer), {}},
                {.row = row,
                 .tokens = tokens,
                 .heads = shape_.kv_heads,
                 .elements = shape_.head_dim,
                 .seed = seed + static_cast<uint64_t>(layer)});
    }
  }

  void append(Queue& queue, int64_t layer, const NewKeys& keys, const TokenBatch& tokens) override {
    store_rows(queue, {.x = keys.rotated, .tokens = tokens, .to = {view(layer), {}}});
  }

  void rebuild(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& /*rope*/,
               TensorView out) override {
    gather_keys(queue, {.batch = chunks.batch,
                        .missing = chunks.missing,
                        .keys = view(layer),
                        .out = out,
                        .chunk = chunk_,
                        .head_dim = shape_.head_dim});
  }

  void rebuild_and_score(Queue& queue, int64_t layer, const Chunks& chunks, const RopeView& rope,
                         TensorView out, const Scoring& scoring) override {
    rebuild(queue, layer, chunks, rope, out);
    candidate_scores(queue, {.q = scoring.q,
                             .batch = chunks.batch,
                             .chunks = chunks.ids,
                             .found = chunks.found,
                             .rebuilt = out,
                             .slots = scoring.held,
                             .scale = shape_.scale(),
                             .scores = scoring.scores});
  }

 private:
  [[nodiscard]] int64_t row_bytes() const { return shape_.head_dim * size_of(shape_.compute); }

  // A block holds, per layer, keys [kv_heads, tokens, head_dim].
  [[nodiscard]] PagedView view(int64_t layer) {
    PagedView view = store_.view(device_.compute(), 0, false);
    view.dtype = shape_.compute;
    view.token_bytes = row_bytes();
    view.head_offset = store_.config().block_tokens * view.token_bytes;
    view.offset = layer * shape_.kv_heads * view.head_offset;
    return view;
  }

  AttentionShape shape_;
  Device& device_;
  int64_t chunk_;
  PagedStore store_;
};

}  // namespace

std::unique_ptr<ChunkKeys> make_whole_keys(const AttentionConfig& config, const AttentionShape& shape,
                                           Device& device) {
  return std::make_unique<WholeKeys>(config, shape, device);
}

}  // namespace shadowkv
