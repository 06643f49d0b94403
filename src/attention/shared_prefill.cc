#include "attention/shared_prefill.h"

#include <algorithm>

#include "base/check.h"

namespace shadowkv {

SharedPrefill::SharedPrefill(std::shared_ptr<ExactPrefill> prefill,
                             std::vector<std::unique_ptr<Attention>> methods)
    : prefill_(std::move(prefill)), methods_(std::move(methods)) {
  require(!methods_.empty(), "no attention method was given; name at least one");
}

void SharedPrefill::select(int64_t method) {
  require(method >= 0 && method < static_cast<int64_t>(methods_.size()),
          "method {} was asked for, there are {}", method, methods_.size());
  selected_ = static_cast<std::size_t>(method);
}

Footprint SharedPrefill::footprint(int64_t tokens) const {
  Footprint sum;
  for (const auto& method : methods_) sum += method->footprint(tokens);
  return sum;
}

Footprint SharedPrefill::peak_until(const SequencePlan& plan, int64_t tokens) const {
  Footprint sum;
  for (const auto& method : methods_) sum += method->peak_until(plan, tokens);
  return sum;
}

void SharedPrefill::begin(SeqId sequence, const SequencePlan& plan) {
  for (const auto& method : methods_) method->begin(sequence, plan);
}

void SharedPrefill::fork(SeqId from, SeqId to, const SequencePlan& plan) {
  for (const auto& method : methods_) method->fork(from, to, plan);
}

Footprint SharedPrefill::fork_until(const SequencePlan& plan, int64_t tokens) const {
  Footprint sum;
  for (const auto& method : methods_) sum += method->fork_until(plan, tokens);
  return sum;
}

void SharedPrefill::fill(SeqId sequence, int64_t tokens, uint64_t seed) {
  methods_[selected_]->fill(sequence, tokens, seed);
}

void SharedPrefill::force_hit_share(double share) {
  methods_[selected_]->force_hit_share(share);
}

Attention& SharedPrefill::alone() const {
  require(methods_.size() == 1,
          "{} methods share a prefill, and each holds a state of its own: reading on, saving and loading are "
          "of one",
          methods_.size());
  return *methods_[0];
}

void SharedPrefill::prefill(const LayerInput& input, TensorView out) {
  if (methods_.size() == 1) return methods_[0]->prefill(input, out);
  prefill_->run(input, out);
}

// Each method goes at least as far as asked, and waits there until the others have come so far.
int64_t SharedPrefill::close_prefill(SeqId sequence, int64_t layer, int64_t first, int64_t tokens) {
  if (methods_.size() == 1) return methods_[0]->close_prefill(sequence, layer, first, tokens);
  if (first == 0) closed_.assign(methods_.size(), 0);
  for (std::size_t i = 0; i < methods_.size(); ++i) {
    const int64_t behind = first + tokens - closed_[i];
    if (behind > 0 && closed_[i] < prefill_->layer().tokens()) {
      closed_[i] = methods_[i]->close_prefill(sequence, layer, closed_[i], behind);
    }
  }
  return *std::min_element(closed_.begin(), closed_.end());
}

int64_t SharedPrefill::closing_tokens() const {
  int64_t most = 1;
  for (const auto& method : methods_) most = std::max(most, method->closing_tokens());
  return most;
}

void SharedPrefill::begin_step(std::span<const SeqId> sequences) {
  methods_[selected_]->begin_step(sequences);
}

void SharedPrefill::decode(const LayerInput& input, TensorView out) {
  methods_[selected_]->decode(input, out);
}

void SharedPrefill::end_step() {
  methods_[selected_]->end_step();
}

std::vector<int64_t> SharedPrefill::step_shape() const {
  std::vector<int64_t> shape = methods_[selected_]->step_shape();
  shape.push_back(static_cast<int64_t>(selected_));
  return shape;
}

void SharedPrefill::pause(SeqId sequence) {
  for (const auto& method : methods_) method->pause(sequence);
}

void SharedPrefill::resume(SeqId sequence) {
  for (const auto& method : methods_) method->resume(sequence);
}

int64_t SharedPrefill::movable_bytes() const {
  int64_t sum = 0;
  for (const auto& method : methods_) sum += method->movable_bytes();
  return sum;
}

int64_t SharedPrefill::release_device(int64_t bytes) {
  int64_t moved = 0;
  for (const auto& method : methods_) moved += method->release_device(bytes);
  return moved;
}

void SharedPrefill::keep_free(int64_t bytes) {
  for (const auto& method : methods_) method->keep_free(bytes);
}

void SharedPrefill::end(SeqId sequence) {
  for (const auto& method : methods_) method->end(sequence);
}

AttentionStatistics SharedPrefill::statistics() {
  return methods_[selected_]->statistics();
}

}  // namespace shadowkv
