#include "constraint/state_table.h"

#include <algorithm>
#include <ranges>
#include <unordered_set>
#include <utility>

#include "base/check.h"

namespace shadowkv {

StateTable::StateTable(const Grammar& grammar)
    : grammar_(grammar), stacks_{{.below = -1, .back = -1, .depth = 0}} {
  start_ = find({{.node = grammar.first(0), .stack = 0}}, false);
}

// A stack beyond the bound is the empty one; the table is full then, and nobody sees the state.
StateTable::StackId StateTable::stack_on(StackId below, NodeId back) {
  const auto found = stack_ids_.find({below, back});
  if (found != stack_ids_.end()) return found->second;
  if (std::ssize(stacks_) >= kMostStacks) {
    is_full_ = true;
    return 0;
  }
  const auto id = static_cast<StackId>(stacks_.size());
  stacks_.push_back(
      {.below = below, .back = back, .depth = stacks_[static_cast<std::size_t>(below)].depth + 1});
  stack_ids_.emplace(std::pair(below, back), id);
  return id;
}

// Whether the node can still be finished within the deepest nesting; `more` calls deeper than its stack.
bool StateTable::fits(NodeId node, StackId stack, int more) const {
  return stacks_[static_cast<std::size_t>(stack)].depth + more + grammar_.depth_to_end(node) <= kMostDepth;
}

// Puts what is behind a place without a byte into `open`, and the place itself into the state.
void StateTable::visit(const Place& place, State& state, std::vector<Place>& open) {
  const GrammarNode& node = grammar_.node(place.node);
  if (!node.bytes.empty()) state.places.push_back(place);
  for (const NodeId to : node.skips) {
    if (fits(to, place.stack)) open.push_back({.node = to, .stack = place.stack});
  }
  for (const GrammarNode::Call& call : node.calls) {
    const NodeId first = grammar_.first(call.rule);
    if (!fits(call.to, place.stack) || !fits(first, place.stack, 1)) continue;
    open.push_back({.node = first, .stack = stack_on(place.stack, call.to)});
  }
  if (!node.ends) return;
  if (place.stack == 0) {
    state.is_complete = true;
  } else {
    const Stack& stack = stacks_[static_cast<std::size_t>(place.stack)];
    open.push_back({.node = stack.back, .stack = stack.below});
  }
}

StateId StateTable::find(std::vector<Place> open, bool is_complete) {
  State state;
  state.is_complete = is_complete;
  std::unordered_set<uint64_t> seen;
  while (!open.empty()) {
    const Place place = open.back();
    open.pop_back();
    const uint64_t key = static_cast<uint64_t>(place.node) << 32 | static_cast<uint32_t>(place.stack);
    if (!seen.insert(key).second) continue;
    require(std::ssize(seen) <= kMostPlaces,
            "the constraint may be at more than {} places at once; make its parts easier to tell apart",
            kMostPlaces);
    visit(place, state, open);
  }
  work_ += std::ssize(seen);
  require(work_ <= kMostWork, "the constraint takes too long to follow; make its parts easier to tell apart");
  if (is_full_) return kFull;
  if (state.places.empty() && !state.is_complete) return kDead;
  std::sort(state.places.begin(), state.places.end());
  const std::pair key(state.places, state.is_complete);
  const auto known = ids_.find(key);
  if (known != ids_.end()) return known->second;
  if (std::ssize(states_) >= kMostStates) return kFull;
  state.next.fill(kUnknown);
  const auto id = static_cast<StateId>(states_.size());
  states_.push_back(std::move(state));
  ids_.emplace(key, id);
  return id;
}

StateId StateTable::next(StateId state, uint8_t byte) {
  const StateId known = at(state).next[byte];
  if (known != kUnknown) return known;
  std::vector<Place> open;
  for (const Place& place : at(state).places) {
    for (const GrammarNode::Bytes& edge : grammar_.node(place.node).bytes) {
      const bool takes = edge.low <= byte && byte <= edge.high && grammar_.can_write(byte);
      if (takes && fits(edge.to, place.stack)) open.push_back({.node = edge.to, .stack = place.stack});
    }
  }
  const StateId found = find(std::move(open), false);
  if (found != kFull) states_[static_cast<std::size_t>(state)].next[byte] = found;
  return found;
}

StateId StateTable::adopt(const StateTable& other, StateId state) {
  std::vector<Place> open;
  for (const Place& place : other.at(state).places) {
    std::vector<NodeId> backs;  // the innermost first
    for (StackId at = place.stack; at != 0; at = other.stacks_[static_cast<std::size_t>(at)].below) {
      backs.push_back(other.stacks_[static_cast<std::size_t>(at)].back);
    }
    StackId stack = 0;
    for (const NodeId back : std::ranges::reverse_view(backs)) stack = stack_on(stack, back);
    open.push_back({.node = place.node, .stack = stack});
  }
  return find(std::move(open), other.at(state).is_complete);
}

}  // namespace shadowkv
