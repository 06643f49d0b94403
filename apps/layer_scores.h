// Methods beside exact attention, layer by layer, while `fidelity` feeds them a text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/layer_fidelity.h"
#include "json_output.h"
#include "methods.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

class LayerScores {
 public:
  // Every so many steps; 0: none. Method 0 is the one that the others are measured against. Throws
  // InvalidInput unless it is full attention.
  LayerScores(int64_t every, std::span<const NamedMethod> methods);
  LayerScores(const LayerScores&) = delete;
  LayerScores& operator=(const LayerScores&) = delete;

  [[nodiscard]] bool any() const { return every_ > 0; }
  // Ahead of a step of all methods, the first of them method 0; outlives the session's steps.
  void begin_step(Session& session, int64_t step);

  [[nodiscard]] std::string table() const;
  [[nodiscard]] Json json(std::size_t method) const;
  // Heat maps of the weight that was attended by layer and KV head, a method beside the other.
  [[nodiscard]] std::string svg() const;

 private:
  void observe(std::size_t method, const LayerObservation& seen);

  int64_t every_;
  std::vector<std::string> labels_;
  std::vector<eval::ExactKeysValues> exact_;       // by layer, of the step
  std::vector<eval::LayerFidelities> fidelities_;  // by method
};

}  // namespace shadowkv::apps
