#include "engine/reading_order.h"

#include <algorithm>

namespace shadowkv {

void ReadingOrder::add(RequestId id, int priority, double work) {
  prompts_[id] = {.priority = priority, .work = work, .left = work};
}

void ReadingOrder::remove(RequestId id) {
  prompts_.erase(id);
}

void ReadingOrder::did(RequestId id, double work) {
  const auto done = prompts_.find(id);
  done->second.left -= work;
  for (auto before = prompts_.begin(); before != done; ++before) {
    if (before->second.priority == done->second.priority) before->second.overtaken += work;
  }
}

bool ReadingOrder::goes_before(const Item& a, const Item& b) {
  const Prompt& x = a.second;
  const Prompt& y = b.second;
  if (x.priority != y.priority) return x.priority > y.priority;
  const bool x_waited = x.overtaken >= x.work, y_waited = y.overtaken >= y.work;
  if (x_waited != y_waited) return x_waited;
  if (!x_waited && x.left != y.left) return x.left < y.left;
  return a.first < b.first;
}

std::optional<RequestId> ReadingOrder::next() const {
  const auto first = std::min_element(prompts_.begin(), prompts_.end(), goes_before);
  return first == prompts_.end() ? std::nullopt : std::optional(first->first);
}

}  // namespace shadowkv
