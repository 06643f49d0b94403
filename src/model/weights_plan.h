// The tensors that a model of given sizes has, where each goes, and how its numbers get there. Loading and
// random weights both walk this plan.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/weights.h"

namespace shadowkv {

enum class WeightRole : uint8_t {
  embedding,
  final_norm,
  lm_head,
  attention_norm,
  wq,
  wk,
  wv,
  bq,
  bk,
  bv,
  q_norm,
  k_norm,
  wo,
  post_attention_norm,
  mlp_norm,
  gate,
  up,
  down,
  post_mlp_norm
};

struct PlannedWeight {
  WeightRole role = WeightRole::embedding;
  int64_t layer = -1;           // -1: of no layer
  std::optional<int64_t> rows;  // nothing: a norm or bias, one vector of `columns`
  int64_t columns = 0;
  DType dtype = DType::f32;

  [[nodiscard]] int64_t row_count() const { return rows.value_or(1); }
  // Of the numbers or codes, up to the scales that lie behind codes.
  [[nodiscard]] int64_t scales_at() const;
  [[nodiscard]] int64_t bytes() const {
    return scales_at() + (dtype == DType::i8 ? row_count() * size_of(DType::f32) : 0);
  }
  [[nodiscard]] std::vector<int64_t> shape() const;
  [[nodiscard]] bool is_bias() const {
    return role == WeightRole::bq || role == WeightRole::bk || role == WeightRole::bv;
  }
};

// All of them, in the order in which they are used; no lm_head when embeddings are tied. `matrices`: float32,
// bfloat16 or int8 (InvalidInput otherwise); norms and biases are float32.
[[nodiscard]] std::vector<PlannedWeight> plan_weights(const ModelConfig& config, DType matrices);

[[nodiscard]] int64_t total_bytes(const std::vector<PlannedWeight>& plan);

// Memory for the whole plan, content undefined; storage[i] belongs to plan[i]. Throws OutOfMemory with both
// numbers, before anything is taken, when the device has less room.
[[nodiscard]] ModelWeights allocate_weights(const ModelConfig& config, const std::vector<PlannedWeight>& plan,
                                            Device& device);

// Fills planned weights with numbers made on the device's host threads. On a device whose memory they cannot
// write, each batch is made in one of a few pinned buffers while the batches before it travel. Bound: the
// slower of the host link and what the threads make.
class WeightFiller {
 public:
  // Rows [first, first + count) of a weight, to be written to host memory.
  struct Rows {
    int64_t first = 0;
    int64_t count = 0;
    std::byte* numbers = nullptr;  // or codes
    float* scales = nullptr;       // [count], with codes
  };
  using Produce = std::function<void(const Rows&)>;  // called from many threads at once

  // `total` bytes are all that will be filled, and make a progress of 1.
  WeightFiller(Device& device, int64_t total, LoadProgress progress);
  ~WeightFiller();  // waits for what travels
  WeightFiller(const WeightFiller&) = delete;
  WeightFiller& operator=(const WeightFiller&) = delete;

  void fill(const PlannedWeight& weight, std::byte* target, const Produce& produce);
  void finish();  // returns when all that was filled is in place; throws when a copy failed

 private:
  // Pinned memory of one batch, and the queue that its copies alone are on.
  struct Staging {
    Buffer memory;
    Queue* copies;
  };
  [[nodiscard]] Staging& next_staging(int64_t bytes);

  Device& device_;
  int stagings_;         // at most; 0: the device's memory can be written
  int64_t batch_bytes_;  // at most, unless a row is larger
  int64_t total_;
  int64_t done_ = 0;
  LoadProgress progress_;
  std::vector<Staging> staging_;  // taken in turn
  int64_t turn_ = 0;
};

}  // namespace shadowkv
