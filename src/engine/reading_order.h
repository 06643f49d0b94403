// Whose prompt is read next, layer by layer, among those that have begun: policy alone.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

#include "engine/scheduler.h"

namespace shadowkv {

// Of one priority the prompt with the least work left goes first, so that a short one does not wait for a
// long one that came before it. Nobody is kept waiting for it without end: once those that came later have
// done as much work as a prompt takes in all, it goes before them. Its reading so ends within twice the work
// that it would take in the order of arrival, and a layer.
class ReadingOrder {
 public:
  // work: of the whole prompt, in any unit. Those with a lower id came before.
  void add(RequestId id, int priority, double work);
  void remove(RequestId id);  // unknown ids are ignored
  void did(RequestId id, double work);
  // None while nobody reads.
  [[nodiscard]] std::optional<RequestId> next() const;

 private:
  struct Prompt {
    int priority = 0;
    double work = 0;
    double left = 0;
    double overtaken = 0;  // work of those that came later, since it began
  };
  using Item = std::map<RequestId, Prompt>::value_type;
  [[nodiscard]] static bool goes_before(const Item& a, const Item& b);

  std::map<RequestId, Prompt> prompts_;
};

}  // namespace shadowkv
