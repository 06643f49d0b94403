// What a decode step does with the samplers of its sequences.
#pragma once

#include <span>
#include <vector>

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

// Room that picking a token takes.
struct PickRoom {
  std::vector<uint64_t> keys;
  std::vector<float> raw;
};

// A step's samplers: the device draws for those that take the logits as they are, the others get theirs on
// the host. A device's op that changes logits as kernels/logit_math.h says would end this difference, in
// needs_logits() alone.
class StepSampling {
 public:
  // Takes all memory that the picks will need. samplers: one a sequence, null: the likeliest token.
  void prepare(std::span<Sampler* const> samplers, int64_t vocab);
  // The same for one of them, ahead of its step.
  static void prepare(Sampler& sampler, int64_t vocab);

  [[nodiscard]] std::span<const SamplingRow> rows() const { return rows_; }          // [samplers]
  [[nodiscard]] std::span<const int64_t> logit_rows() const { return logit_rows_; }  // that the host needs
  // After the step. ids: [samplers], as the device drew them, become what was picked; logits:
  // [logit_rows().size(), vocab], which are written over.
  void finish(std::span<int32_t> ids, std::span<float> logits);

 private:
  friend class Sampler;
  [[nodiscard]] static bool needs_logits(const Sampler& sampler) { return sampler.state_ != nullptr; }
  static int32_t pick(Sampler& sampler, std::span<float> logits, PickRoom& room);

  std::vector<Sampler*> samplers_;
  std::vector<SamplingRow> rows_;
  std::vector<int64_t> logit_rows_;
  PickRoom room_;
};

}  // namespace shadowkv
