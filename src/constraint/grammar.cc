#include "constraint/grammar.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace shadowkv {
namespace {

constexpr int kNever = std::numeric_limits<int>::max() / 2;

}  // namespace

RuleId Grammar::add_rule() {
  rules_.push_back(add_node());
  return static_cast<RuleId>(rules_.size() - 1);
}

NodeId Grammar::add_node() {
  require(std::ssize(nodes_) < kMostNodes,
          "the constraint becomes an automaton of more than {} nodes; simplify it or lower its counts",
          kMostNodes);
  nodes_.emplace_back();
  return static_cast<NodeId>(nodes_.size() - 1);
}

NodeId Grammar::text(NodeId from, std::string_view bytes) {
  for (const char c : bytes) {
    const NodeId next = add_node();
    add_bytes(from, static_cast<uint8_t>(c), static_cast<uint8_t>(c), next);
    from = next;
  }
  return from;
}

NodeId Grammar::call(NodeId from, RuleId rule) {
  const NodeId next = add_node();
  add_call(from, rule, next);
  return next;
}

std::vector<std::vector<NodeId>> Grammar::predecessors() const {
  std::vector<std::vector<NodeId>> before(nodes_.size());
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    for (const auto& edge : nodes_[i].bytes) before[static_cast<std::size_t>(edge.to)].push_back(id);
    for (const NodeId to : nodes_[i].skips) before[static_cast<std::size_t>(to)].push_back(id);
    for (const auto& call : nodes_[i].calls) {
      before[static_cast<std::size_t>(call.to)].push_back(id);
      before[static_cast<std::size_t>(first(call.rule))].push_back(id);
    }
  }
  return before;
}

int Grammar::depth_by_edges(NodeId id) const {
  const GrammarNode& from = node(id);
  int depth = from.ends ? 0 : kNever;
  for (const auto& edge : from.bytes) {
    bool is_open = false;
    for (int byte = edge.low; byte <= edge.high && !is_open; ++byte)
      is_open = can_write(static_cast<uint8_t>(byte));
    if (is_open) depth = std::min(depth, depth_to_end(edge.to));
  }
  for (const NodeId to : from.skips) depth = std::min(depth, depth_to_end(to));
  for (const auto& call : from.calls) {
    depth = std::min(depth, std::max(1 + depth_to_end(first(call.rule)), depth_to_end(call.to)));
  }
  return std::min(depth, kNever);
}

// From the ends backwards; a node is looked at again when one behind it became less deep.
void Grammar::finish(const std::bitset<256>& alphabet) {
  alphabet_ = alphabet;
  depths_.assign(nodes_.size(), kNever);
  const std::vector<std::vector<NodeId>> before = predecessors();
  std::vector<NodeId> open;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].ends) open.push_back(static_cast<NodeId>(i));
  }
  while (!open.empty()) {
    const NodeId id = open.back();
    open.pop_back();
    const int depth = depth_by_edges(id);
    int& known = depths_[static_cast<std::size_t>(id)];
    if (depth >= known) continue;
    known = depth;
    for (const NodeId earlier : before[static_cast<std::size_t>(id)]) open.push_back(earlier);
  }
  const int least = depth_to_end(first(0));
  require(least < kNever, "nothing that the vocabulary can write satisfies the constraint");
  require(least <= kMostDepth, "the constraint nests {} deep at least; at most {} is taken", least,
          kMostDepth);
}

}  // namespace shadowkv
