// A small transformer with random weights and peaked attention, and sequences that run through it under one
// or more methods: what the laws of attention are stated over.
#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attention/shared_prefill.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace shadowkv::testing {

struct TinyShape {
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t head_dim = 16;
  bool interleaved = false;
  std::vector<float> divisors{};  // of the rotary frequencies
  std::vector<ShorterRope> shorter{};
};

inline ModelConfig tiny_config(const TinyShape& shape) {
  ModelConfig config;
  config.architecture = "llama";
  config.name = "tiny";
  config.vocab_size = 96;
  config.hidden = 64;
  config.layers = 3;
  config.heads = shape.heads;
  config.kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.inner = 96;
  config.context = 8192;
  config.rope = {.theta = 10000.0,
                 .rotary_dim = shape.head_dim,
                 .interleaved = shape.interleaved,
                 .divisors = shape.divisors};
  config.rope.shorter = shape.shorter;
  return config;
}

// In float32.
inline AttentionShape shape_of(const ModelConfig& config) {
  return {.layers = config.layers,
          .heads = config.heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .rope = config.rope,
          .compute = DType::f32};
}

// Tokens that repeat with a long period, so that some keys recur and attention has something to find.
inline std::vector<int32_t> tiny_ids(int64_t count, uint32_t seed = 1) {
  std::vector<int32_t> ids;
  uint32_t state = seed * 2654435761u + 12345u;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const bool repeats = i >= 97 && (state >> 28) < 6;
    ids.push_back(repeats ? ids[static_cast<std::size_t>(i - 97)] : static_cast<int32_t>((state >> 8) % 96));
  }
  return ids;
}

// Shadow for short prompts, at full rank: values and factors stored as `storage`.
inline AttentionConfig sparse_from_the_start(IndexKind index, int64_t sparse_budget, StorageType storage) {
  AttentionConfig config;
  config.exact_below = 0;
  config.index = index;
  config.outlier_chunks = index == IndexKind::landmarks ? 2 : 0;
  config.sparse_budget = sparse_budget;
  config.local_window = 8;
  config.rank = 4096;
  config.factors = storage;
  config.values = storage;
  return config;
}

class TinyModel {
 public:
  explicit TinyModel(const TinyShape& shape = {}, const CpuDeviceOptions& options = {.threads = 2})
      : TinyModel(shape, make_cpu_device(options)) {}
  // In the device's type of activations.
  TinyModel(const TinyShape& shape, std::unique_ptr<Device> device)
      : device_(std::move(device)),
        config_(tiny_config(shape)),
        weights_(random_weights(config_, device_->activation_dtype(), *device_, 7)),
        transformer_(config_, weights_, *device_) {
    // Scores of unit variance attend to everything alike; four times that has favourites.
    for (const LayerWeights& layer : weights_.layers) {
      if (layer.wq.dtype == DType::bf16)
        multiply<bf16>(layer.wq, 4.0f);
      else
        multiply<float>(layer.wq, 4.0f);
    }
  }

  [[nodiscard]] Device& device() { return *device_; }
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] Transformer& transformer() { return transformer_; }
  [[nodiscard]] AttentionShape attention_shape() const {
    AttentionShape shape = shape_of(config_);
    shape.compute = device_->activation_dtype();
    return shape;
  }

 private:
  template <typename T>
  void multiply(const TensorView& weight, float factor) {
    std::vector<T> numbers(static_cast<std::size_t>(weight.elements()));
    Queue& queue = device_->compute();
    queue.copy(numbers.data(), weight.data, weight.bytes());
    queue.synchronize();
    for (T& x : numbers) x = T(static_cast<float>(x) * factor);
    queue.copy(weight.data, numbers.data(), weight.bytes());
    queue.synchronize();
  }

  std::unique_ptr<Device> device_;
  ModelConfig config_;
  ModelWeights weights_;
  Transformer transformer_;
};

// Methods over a model that share one prefill.
class Methods {
 public:
  Methods(Transformer& transformer, const AttentionShape& shape, int64_t context, Device& device,
          const std::vector<AttentionConfig>& configs)
      : transformer_(transformer), prefill_(std::make_shared<ExactPrefill>(shape, device)) {
    std::vector<std::unique_ptr<Attention>> made;
    for (const AttentionConfig& config : configs) {
      made.push_back(make_attention(resolve(config, shape, context, nullptr), shape, prefill_, device));
    }
    shared_ = std::make_unique<SharedPrefill>(prefill_, std::move(made));
  }
  Methods(TinyModel& model, const std::vector<AttentionConfig>& configs)
      : Methods(model.transformer(), model.attention_shape(), model.config().context, model.device(),
                configs) {}

  // Logits of the last position. The sequence may grow by `more` tokens.
  std::vector<float> prefill(SeqId id, std::span<const int32_t> ids, int64_t more, int64_t slice = 512,
                             const StepProgress& progress = {}) {
    const auto count = static_cast<int64_t>(ids.size());
    prefill_->begin(count);
    shared_->begin(id, {.prompt_tokens = count, .max_tokens = count + more});
    std::vector<float> logits = transformer_.prefill(*shared_, id, ids, slice, progress);
    prefill_->end();
    return logits;
  }

  // `to` goes on from where `from` is, which holds `held` tokens, and may grow by `more`.
  void fork(SeqId from, SeqId to, int64_t held, int64_t more) {
    shared_->fork(from, to, {.prompt_tokens = held, .max_tokens = held + more});
  }

  // Reads on behind what the sequence holds.
  std::vector<float> append(SeqId id, int64_t held, std::span<const int32_t> ids, int64_t slice = 512,
                            const StepProgress& progress = {}, int64_t rows = int64_t{1} << 30) {
    prefill_->begin(held + std::ssize(ids));
    shared_->begin_append(id, std::ssize(ids));
    try {
      PrefillRun run = transformer_.begin_prefill(id, ids, slice, held);
      while (!transformer_.is_done(run)) {
        transformer_.advance(*shared_, run, rows);
        if (progress) progress(run.share(3));
      }
      std::vector<float> logits = transformer_.end_prefill(run);
      shared_->end_append(id);
      prefill_->end();
      return logits;
    } catch (...) {
      shared_->abandon_append(id);
      prefill_->end();
      throw;
    }
  }

  // The same in units, between which anything may run; another prompt between two layers.
  PrefillRun begin_prefill(SeqId id, std::span<const int32_t> ids, int64_t more, int64_t slice = 512) {
    const auto count = static_cast<int64_t>(ids.size());
    shared_->begin(id, {.prompt_tokens = count, .max_tokens = count + more});
    return transformer_.begin_prefill(id, ids, slice);
  }
  void advance(PrefillRun& run, int64_t rows) {
    if (run.between_layers()) prefill_->begin(run.tokens);
    transformer_.advance(*shared_, run, rows);
  }
  [[nodiscard]] bool is_done(const PrefillRun& run) const { return transformer_.is_done(run); }
  std::vector<float> end_prefill(const PrefillRun& run) {
    prefill_->end();
    return transformer_.end_prefill(run);
  }

  std::vector<float> decode(std::span<const SeqId> sequences, std::span<const int32_t> ids,
                            int64_t method = 0) {
    shared_->select(method);
    return transformer_.decode(*shared_, sequences, ids);
  }

  Transformer::Drawn decode_sampled(std::span<const SeqId> sequences, std::span<const int32_t> ids,
                                    const Transformer::Drawing& drawing) {
    return transformer_.decode_sampled(*shared_, sequences, ids, drawing);
  }
  std::vector<int32_t> decode_greedy(std::span<const SeqId> sequences, std::span<const int32_t> ids) {
    const std::vector<SamplingRow> greedy(ids.size());
    return decode_sampled(sequences, ids, {.how = greedy}).ids;
  }

  // Prefill, then one row of logits a forced token.
  std::vector<std::vector<float>> run(SeqId id, std::span<const int32_t> prompt,
                                      std::span<const int32_t> steps, int64_t slice = 512) {
    std::vector<std::vector<float>> rows{prefill(id, prompt, static_cast<int64_t>(steps.size()), slice)};
    for (const int32_t token : steps) rows.push_back(decode({&id, 1}, {&token, 1}));
    return rows;
  }

  // Gives back what a prefill that threw left behind.
  void abandon(SeqId id) {
    shared_->end(id);
    prefill_->end();
  }
  void end(SeqId id) { shared_->end(id); }
  [[nodiscard]] Transformer& transformer() { return transformer_; }
  [[nodiscard]] Attention& method(int64_t i = 0) { return shared_->method(i); }

 private:
  Transformer& transformer_;
  std::shared_ptr<ExactPrefill> prefill_;
  std::unique_ptr<SharedPrefill> shared_;
};

}  // namespace shadowkv::testing
