// One query a sequence over its whole context. The context is cut at fixed positions into parts of kPart
// tokens that threads share; parts are merged in order, so neither threads nor other sequences change a bit.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/work.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr int64_t kPart = 1024;  // tokens; part of the result's definition
constexpr int64_t kBlock = 64;   // tokens between steps of the running softmax; likewise
constexpr RunningSoftmax kNothing{-std::numeric_limits<float>::infinity(), 0.0f};

// Which part of which sequence and KV head, and where its result goes.
struct Part {
  int64_t sequence;
  int64_t kv_head;
  int64_t first;
  int64_t end;
  float* sums;              // [group, padded_dim]: not yet divided
  RunningSoftmax* running;  // [group]
};

class PartAttention {
 public:
  PartAttention(const PagedAttentionParams& params, const Part& part)
      : params_(params),
        part_(part),
        row_(params.batch.rows[part.sequence]),
        group_(params.q.shape[1] / params.kv_heads),
        head_dim_(params.q.shape[2]),
        padded_dim_(round_up(head_dim_, kLanes)),
        queries_(group_ * head_dim_),
        scores_(group_ * kBlock),
        values_(kBlock * padded_dim_) {}

  void run() {
    const float* q =
        params_.q.as<float>() + (part_.sequence * params_.q.shape[1] + part_.kv_head * group_) * head_dim_;
    vector_ops().widen(reinterpret_cast<const std::byte*>(q), DType::f32, params_.scale, queries_.data(),
                       group_ * head_dim_);
    std::fill_n(part_.sums, group_ * padded_dim_, 0.0f);
    std::fill_n(part_.running, group_, kNothing);
    for (int64_t token = part_.first; token < part_.end; token += kBlock) {
      attend(token, std::min(kBlock, part_.end - token));
    }
  }

 private:
  // Tokens [token, token + result) lie one after the other in memory.
  static int64_t run_of(const PagedView& view, int64_t token, int64_t count) {
    return std::min(count, view.block_tokens - token % view.block_tokens);
  }

  void attend(int64_t token, int64_t count) {
    for (int64_t i = 0; i < count;) {
      const int64_t run = run_of(params_.keys.data, token + i, count - i);
      score(token + i, i, run);
      i += run;
    }
    for (int64_t h = 0; h < group_; ++h) {
      const float shrink = vector_ops().softmax_step(scores_.data() + h * kBlock, count, part_.running + h);
      if (shrink != 1.0f) vector_ops().scale(shrink, part_.sums + h * padded_dim_, padded_dim_);
    }
    for (int64_t i = 0; i < count;) {
      const int64_t run = run_of(params_.values.data, token + i, count - i);
      add_values(token + i, i, run);
      i += run;
    }
  }

  // Scales of int8 tokens [token, token + run), which lie in one block; nullptr for other types.
  const float* scales_of(const QuantizedView& view, int64_t token, int64_t run) {
    if (view.data.dtype != DType::i8) return nullptr;
    const std::byte* first = view.scales.at(row_, part_.kv_head, token);
    for (int64_t i = 0; i < run; ++i) {
      scales_[i] = static_cast<float>(*reinterpret_cast<const bf16*>(first + i * view.scales.token_bytes));
    }
    return scales_.data();
  }

  // Scores of tokens [token, token + run) to columns from i on.
  void score(int64_t token, int64_t i, int64_t run) {
    const PagedView& view = params_.keys.data;
    vector_ops().dot_block({.x = queries_.data(),
                            .x_stride = head_dim_,
                            .rows = group_,
                            .w = {view.at(row_, part_.kv_head, token), view.token_bytes, view.dtype},
                            .outputs = run,
                            .k = head_dim_,
                            .out = scores_.data() + i,
                            .out_stride = kBlock,
                            .add = false});
    const float* scales = scales_of(params_.keys, token, run);
    for (int64_t h = 0; scales != nullptr && h < group_; ++h) {
      float* scores = scores_.data() + h * kBlock + i;
      for (int64_t j = 0; j < run; ++j) scores[j] *= scales[j];
    }
  }

  // Values of tokens [token, token + run) with the weights in columns from i on.
  void add_values(int64_t token, int64_t i, int64_t run) {
    const PagedView& view = params_.values.data;
    const RowsView rows{view.at(row_, part_.kv_head, token), view.token_bytes, view.dtype};
    vector_ops().widen_rows(rows, scales_of(params_.values, token, run), run, head_dim_, values_.data(),
                            padded_dim_);
    vector_ops().outer_block({.a = scores_.data() + i,
                              .a_stride = kBlock,
                              .rows = group_,
                              .b = values_.data(),
                              .b_stride = padded_dim_,
                              .k = run,
                              .columns = padded_dim_,
                              .c = part_.sums,
                              .c_stride = padded_dim_,
                              .add = true});
  }

  const PagedAttentionParams& params_;
  const Part& part_;
  int64_t row_;
  int64_t group_;
  int64_t head_dim_;
  int64_t padded_dim_;
  Scratch queries_;  // [group, head_dim], scaled
  Scratch scores_;   // [group, kBlock]
  Scratch values_;   // [kBlock, padded_dim]
  std::array<float, kBlock> scales_;
};

// All parts of a batch, those of one sequence and KV head side by side, and their results.
class Parts {
 public:
  explicit Parts(const PagedAttentionParams& params)
      : params_(params),
        group_(params.q.shape[1] / params.kv_heads),
        padded_dim_(round_up(params.q.shape[2], kLanes)),
        count_(count_parts()),
        sums_(std::max<int64_t>(1, count_ * group_ * padded_dim_)),
        running_(count_ * group_) {
    parts_.reserve(count_);
    for (int64_t b = 0; b < params.batch.size; ++b) {
      for (int64_t g = 0; g < params.kv_heads; ++g) {
        for (int64_t first = 0; first < params.batch.tokens[b]; first += kPart) add(b, g, first);
      }
    }
  }

  [[nodiscard]] int64_t count() const { return count_; }
  [[nodiscard]] const Part& operator[](int64_t i) const { return parts_[i]; }

  // Merges the parts from `first` on that belong to one sequence and KV head; returns how many.
  int64_t merge(int64_t sequence, int64_t kv_head, int64_t first) const {
    const int64_t parts = ceil_div(std::max(params_.batch.tokens[sequence], 0), kPart);
    for (int64_t h = 0; h < group_; ++h) {
      merge_head((sequence * params_.kv_heads + kv_head) * group_ + h, h, first, parts);
    }
    return parts;
  }

 private:
  [[nodiscard]] int64_t count_parts() const {
    int64_t count = 0;
    for (int64_t b = 0; b < params_.batch.size; ++b) {
      count += params_.kv_heads * ceil_div(std::max(params_.batch.tokens[b], 0), kPart);
    }
    return count;
  }

  void add(int64_t sequence, int64_t kv_head, int64_t first) {
    const int64_t i = static_cast<int64_t>(parts_.size());
    const int64_t end = std::min<int64_t>(first + kPart, params_.batch.tokens[sequence]);
    parts_.push_back({sequence, kv_head, first, end, sums_.data() + i * group_ * padded_dim_,
                      running_.data() + i * group_});
  }

  void merge_head(int64_t out_row, int64_t head, int64_t first, int64_t parts) const {
    const int64_t head_dim = params_.q.shape[2];
    float* out = params_.out.as<float>() + out_row * head_dim;
    RunningSoftmax all = kNothing;
    for (int64_t i = first; i < first + parts; ++i) all.max = std::max(all.max, parts_[i].running[head].max);
    std::fill_n(out, head_dim, 0.0f);
    for (int64_t i = first; i < first + parts; ++i) {
      const float weight = std::exp(parts_[i].running[head].max - all.max);
      all.sum += weight * parts_[i].running[head].sum;
      vector_ops().axpy(weight, parts_[i].sums + head * padded_dim_, out, head_dim);
    }
    for (int64_t d = 0; parts > 0 && d < head_dim; ++d) out[d] /= all.sum;
    params_.lse.as<float>()[out_row] = all.max + std::log(all.sum);
  }

  const PagedAttentionParams& params_;
  int64_t group_;
  int64_t padded_dim_;
  int64_t count_;
  Scratch sums_;                         // [parts, group, padded_dim]
  std::vector<RunningSoftmax> running_;  // [parts, group]
  std::vector<Part> parts_;
};

}  // namespace

void paged_attention(Queue& queue, const PagedAttentionParams& params) {
  const Parts parts(params);
  int64_t tokens = 0;
  for (int64_t b = 0; b < params.batch.size; ++b) tokens += params.batch.tokens[b];
  const int64_t work = 2 * tokens * params.q.shape[1] * params.q.shape[2];
  share_work(queue, parts.count(), work, [&](int64_t i) { PartAttention(params, parts[i]).run(); });
  int64_t first = 0;
  for (int64_t b = 0; b < params.batch.size; ++b) {
    for (int64_t g = 0; g < params.kv_heads; ++g) first += parts.merge(b, g, first);
  }
}

}  // namespace shadowkv::cpu
