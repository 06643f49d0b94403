// What a decode step does with the samplers of its sequences.
#pragma once

#include <span>
#include <vector>

#include "engine/logit_tables.h"
#include "kernels/sampling_math.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv {

// What a request's sampling is checked against.
struct SamplingLimits {
  int64_t vocab = 0;
  int64_t max_new_tokens = 0;
  bool has_tokenizer = false;
  bool ignore_eos = false;
};
// Throws InvalidInput for what the model or the length of the answer contradicts.
void check_sampling(const SamplingParams& params, const SamplingLimits& limits);

[[nodiscard]] bool is_constrained(const SamplingParams& params);

// How the device draws for a sampler that changes no logits.
[[nodiscard]] SamplingRow sampling_row(const Sampler& sampler);

// A step's samplers, as the device's ops take them.
class StepSampling {
 public:
  explicit StepSampling(Device& device) : tables_(device) {}

  // Takes all memory that the step will need, on the host and on the device, and brings there what is new.
  // samplers: one a sequence of the batch, null: the likeliest token.
  void prepare(int64_t method, std::span<const SequenceToken> batch, std::span<Sampler* const> samplers,
               int64_t vocab);
  // The host's part for one of them, ahead of its step.
  static void prepare(Sampler& sampler, int64_t vocab);

  [[nodiscard]] std::span<const SamplingRow> rows() const { return rows_; }     // [samplers]
  [[nodiscard]] std::span<const LogitRow> changes() const { return changes_; }  // likewise, or none
  // After the step, whose tokens and ranks they take: [samplers] both, no ranks where none are asked for.
  void finish(std::span<const int32_t> ids, std::span<const TokenRanks> ranks);

  // Gives back what the device holds for a sequence: its next step brings it again.
  void forget(SequenceId sequence) noexcept { tables_.forget(sequence); }

 private:
  [[nodiscard]] static bool is_plain(const Sampler* sampler) {
    return sampler == nullptr || sampler->state_ == nullptr;
  }

  LogitTables tables_;
  std::vector<Sampler*> samplers_;
  std::vector<SamplingRow> rows_;
  std::vector<LogitRow> changes_;
};

}  // namespace shadowkv
