// Exact causal attention by blocks of keys with a running softmax. Block b always covers positions
// [b * kKeys, (b + 1) * kKeys), and every query row takes its own keys in order, so neither slices nor tiles
// of queries change a bit of its result.
#include <algorithm>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/work.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr int64_t kKeys = 128;  // keys a block; part of the result's definition
constexpr int64_t kTileRows =
    256;  // (query, head) rows of one KV head that share a block: scores take 128 KiB
constexpr int64_t kRaggedTokens = 8;  // queries that go together where their last keys differ

// Queries [first, first + tokens) of one KV head's group, token by token: row = token * group + head in
// group.
class Tile {
 public:
  Tile(const PrefillAttentionParams& params, int64_t first, int64_t tokens, int64_t kv_head)
      : params_(params),
        group_(params.q.shape[1] / params.k.shape[1]),
        head_dim_(params.q.shape[2]),
        padded_dim_(round_up(head_dim_, kLanes)),
        first_(first),
        tokens_(tokens),
        kv_head_(kv_head),
        queries_(tokens * group_ * head_dim_),
        keys_(head_dim_ * kKeys),
        values_(kKeys * padded_dim_),
        scores_(tokens * group_ * kKeys),
        sums_(tokens * group_ * padded_dim_),
        running_(tokens * group_, RunningSoftmax{-std::numeric_limits<float>::infinity(), 0.0f}) {}

  void run() {
    gather_queries();
    std::fill_n(sums_.data(), tokens_ * group_ * padded_dim_, 0.0f);
    const int64_t last_position = params_.first_position + first_ + tokens_ - 1;
    for (int64_t key = 0; key <= last_position; key += kKeys) attend(key);
    write_out();
  }

 private:
  [[nodiscard]] int64_t position(int64_t token) const { return params_.first_position + first_ + token; }
  // Keys of the block from `key` that the token may see.
  [[nodiscard]] int64_t visible(int64_t token, int64_t key) const {
    return std::clamp<int64_t>(position(token) + 1 - key, 0, kKeys);
  }

  void gather_queries() {
    for (int64_t row = 0; row < tokens_ * group_; ++row) {
      const int64_t head = (first_ + row / group_) * params_.q.shape[1] + kv_head_ * group_ + row % group_;
      vector_ops().widen(params_.q.data + head * head_dim_ * int64_t{sizeof(float)}, DType::f32,
                         params_.scale, queries_.data() + row * head_dim_, head_dim_);
    }
  }

  void gather_block(int64_t key) {
    const int64_t stride = params_.k.shape[1] * head_dim_;
    const int64_t offset = key * stride + kv_head_ * head_dim_;
    const int64_t count = std::min(kKeys, params_.k.shape[0] - key);
    vector_ops().transpose(params_.k.as<float>() + offset, stride, count, head_dim_, keys_.data(), kKeys);
    for (int64_t i = 0; i < count; ++i) {
      const float* from = params_.v.as<float>() + offset + i * stride;
      float* to = values_.data() + i * padded_dim_;
      std::copy_n(from, head_dim_, to);
      std::fill_n(to + head_dim_, padded_dim_ - head_dim_, 0.0f);
    }
  }

  void attend(int64_t key) {
    gather_block(key);
    const int64_t first_token =
        std::max<int64_t>(0, key - position(0));  // earlier ones see none of these keys
    const int64_t row = first_token * group_;
    vector_ops().outer_block({.a = queries_.data() + row * head_dim_,
                              .a_stride = head_dim_,
                              .rows = (tokens_ - first_token) * group_,
                              .b = keys_.data(),
                              .b_stride = kKeys,
                              .k = head_dim_,
                              .columns = kKeys,
                              .c = scores_.data() + row * kKeys,
                              .c_stride = kKeys,
                              .add = false});
    for (int64_t token = first_token; token < tokens_; ++token) soften(token, key);
    add_values(first_token, key);
  }

  void soften(int64_t token, int64_t key) {
    for (int64_t row = token * group_; row < (token + 1) * group_; ++row) {
      const float shrink =
          vector_ops().softmax_step(scores_.data() + row * kKeys, visible(token, key), &running_[row]);
      if (shrink != 1.0f) vector_ops().scale(shrink, sums_.data() + row * padded_dim_, padded_dim_);
    }
  }

  // sums += weights of keys [from, to) of the block * their values, for tokens [token, token + count).
  void add_values(int64_t token, int64_t count, int64_t from, int64_t to) {
    const int64_t row = token * group_;
    if (from == to) return;
    vector_ops().outer_block({.a = scores_.data() + row * kKeys + from,
                              .a_stride = kKeys,
                              .rows = count * group_,
                              .b = values_.data() + from * padded_dim_,
                              .b_stride = padded_dim_,
                              .k = to - from,
                              .columns = padded_dim_,
                              .c = sums_.data() + row * padded_dim_,
                              .c_stride = padded_dim_,
                              .add = true});
  }

  // Tokens that see different parts of the block go in small runs: what all see, then each one's rest.
  void add_values(int64_t first_token, int64_t key) {
    int64_t token = first_token;
    for (; token < tokens_ && visible(token, key) < kKeys; token += kRaggedTokens) {
      const int64_t count = std::min(kRaggedTokens, tokens_ - token);
      const int64_t common = visible(token, key);
      add_values(token, count, 0, common);
      for (int64_t i = token + 1; i < token + count; ++i) add_values(i, 1, common, visible(i, key));
    }
    if (token < tokens_) add_values(token, tokens_ - token, 0, kKeys);
  }

  void write_out() {
    for (int64_t row = 0; row < tokens_ * group_; ++row) {
      const int64_t head = (first_ + row / group_) * params_.q.shape[1] + kv_head_ * group_ + row % group_;
      const float* sums = sums_.data() + row * padded_dim_;
      float* out = params_.out.as<float>() + head * head_dim_;
      for (int64_t d = 0; d < head_dim_; ++d) out[d] = sums[d] / running_[row].sum;
    }
  }

  const PrefillAttentionParams& params_;
  int64_t group_;
  int64_t head_dim_;
  int64_t padded_dim_;
  int64_t first_;
  int64_t tokens_;
  int64_t kv_head_;
  Scratch queries_;                      // [rows, head_dim], scaled
  Scratch keys_;                         // [head_dim, kKeys]
  Scratch values_;                       // [kKeys, padded_dim]
  Scratch scores_;                       // [rows, kKeys]
  Scratch sums_;                         // [rows, padded_dim]
  std::vector<RunningSoftmax> running_;  // [rows]
};

}  // namespace

void prefill_attention(Queue& queue, const PrefillAttentionParams& params) {
  const int64_t tokens = params.q.shape[0];
  const int64_t kv_heads = params.k.shape[1];
  const int64_t group = params.q.shape[1] / kv_heads;
  const int64_t tile_tokens = std::max<int64_t>(1, kTileRows / std::max<int64_t>(group, 1));
  const int64_t tiles = ceil_div(tokens, tile_tokens);
  const int64_t work = tokens * params.q.shape[1] * params.q.shape[2] * (params.first_position + tokens);
  share_work(queue, tiles * kv_heads, work, [&](int64_t i) {
    const int64_t first = (tiles - 1 - i / kv_heads) * tile_tokens;  // the longest first
    Tile(params, first, std::min(tile_tokens, tokens - first), i % kv_heads).run();
  });
}

}  // namespace shadowkv::cpu
