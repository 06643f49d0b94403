#include "model/step_graphs.h"

#include <algorithm>

namespace shadowkv {

Graph* StepGraphs::find(const StepShape& shape, const std::function<std::unique_ptr<Graph>()>& record) {
  entries_.remove_if([&](const Entry& entry) { return entry.shape.address_epoch != shape.address_epoch; });
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.shape == shape; });
  if (found == entries_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found);
  if (!found->tried) {
    found->tried = true;
    ++counts_.asked;
    found->graph = make(record);
    if (!found->graph && drop_recordings()) found->graph = make(record);
  }
  if (found->graph) ++counts_.replayed;
  return found->graph.get();
}

std::unique_ptr<Graph> StepGraphs::make(const std::function<std::unique_ptr<Graph>()>& record) {
  std::unique_ptr<Graph> graph = record();
  if (graph) ++counts_.made;
  return graph;
}

// Returns whether there were any.
bool StepGraphs::drop_recordings() {
  return entries_.remove_if([](const Entry& entry) { return entry.graph != nullptr; }) > 0;
}

void StepGraphs::ran(const StepShape& shape) {
  if (!entries_.empty() && entries_.front().shape == shape) return;  // found, but nothing records here
  entries_.emplace_front().shape = shape;
  if (entries_.size() > kMost) entries_.pop_back();
}

}  // namespace shadowkv
