// Which bytes an answer may have, as a network of nodes: edges take a byte, or nothing, or everything that
// another rule takes. Rules may call each other and themselves, so that brackets match to any depth, up to
// kMostDepth calls within each other. Built once, then read only.
#pragma once

#include <bitset>
#include <cstdint>
#include <string_view>
#include <vector>

namespace shadowkv {

using NodeId = int32_t;
using RuleId = int32_t;

// Bounds of what a pattern or schema may become, and so of the time and memory that it may take.
inline constexpr int64_t kMostNodes = 100'000;
inline constexpr int kMostDepth = 128;

struct GrammarNode {
  struct Bytes {
    uint8_t low, high;
    NodeId to;
  };
  struct Call {
    RuleId rule;
    NodeId to;
  };
  std::vector<Bytes> bytes;
  std::vector<NodeId> skips;
  std::vector<Call> calls;
  bool ends = false;  // its rule is complete here
};

class Grammar {
 public:
  // Declares a rule: its first node. The first rule is what an answer must be.
  [[nodiscard]] RuleId add_rule();
  [[nodiscard]] NodeId first(RuleId rule) const { return rules_[static_cast<std::size_t>(rule)]; }
  // Throws InvalidInput when there are more than kMostNodes.
  [[nodiscard]] NodeId add_node();

  void add_bytes(NodeId from, uint8_t low, uint8_t high, NodeId to) {
    at(from).bytes.push_back({low, high, to});
  }
  void add_skip(NodeId from, NodeId to) { at(from).skips.push_back(to); }
  void add_call(NodeId from, RuleId rule, NodeId to) { at(from).calls.push_back({rule, to}); }
  void end_rule(NodeId last) { at(last).ends = true; }
  // Appends; returns the node behind.
  [[nodiscard]] NodeId text(NodeId from, std::string_view bytes);
  [[nodiscard]] NodeId call(NodeId from, RuleId rule);

  // To be called once all is there. alphabet: the bytes that can be written at all. Throws InvalidInput where
  // nothing, or only what is nested too deeply, satisfies the first rule.
  void finish(const std::bitset<256>& alphabet);

  [[nodiscard]] const GrammarNode& node(NodeId id) const { return nodes_[static_cast<std::size_t>(id)]; }
  [[nodiscard]] bool can_write(uint8_t byte) const { return alphabet_[byte]; }
  // Calls within each other that its rule's rest takes at least; more than kMostDepth where it has no end.
  [[nodiscard]] int depth_to_end(NodeId id) const { return depths_[static_cast<std::size_t>(id)]; }

 private:
  GrammarNode& at(NodeId id) { return nodes_[static_cast<std::size_t>(id)]; }
  [[nodiscard]] int depth_by_edges(NodeId id) const;
  [[nodiscard]] std::vector<std::vector<NodeId>> predecessors() const;

  std::vector<GrammarNode> nodes_;
  std::vector<NodeId> rules_;
  std::vector<int> depths_;
  std::bitset<256> alphabet_;
};

}  // namespace shadowkv
