// The states that a grammar can be in, found as they are needed: each is a set of places, nodes with the
// calls around them. Bounded: when a table is full, a new one begins where the old one stood.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "constraint/grammar.h"

namespace shadowkv {

using StateId = int32_t;

// Bounds of one table: about 20 MiB with its masks.
inline constexpr int64_t kMostStates = 4096;
inline constexpr int64_t kMostPlaces = 2048;  // of a state
inline constexpr int64_t kMostStacks = 1 << 16;
inline constexpr int64_t kMostWork = 1'000'000;  // places visited for one token: about a tenth of a second

class StateTable {
 public:
  // grammar is finished and outlives this.
  explicit StateTable(const Grammar& grammar);

  static constexpr StateId kDead = -1;  // nothing that begins so is allowed
  static constexpr StateId kFull = -2;  // the table has no room for the state

  void begin_work() { work_ = 0; }  // of a token
  [[nodiscard]] StateId start() const { return start_; }
  // The state behind a byte, kDead or kFull. Throws InvalidInput for a state of more than kMostPlaces.
  [[nodiscard]] StateId next(StateId state, uint8_t byte);
  // Whether what has come is whole, and whether more may come.
  [[nodiscard]] bool is_complete(StateId state) const { return at(state).is_complete; }
  [[nodiscard]] bool can_go_on(StateId state) const { return !at(state).places.empty(); }
  // Another table's state, in this one, which is new.
  [[nodiscard]] StateId adopt(const StateTable& other, StateId state);

 private:
  using StackId = int32_t;
  struct Place {
    NodeId node;
    StackId stack;
    auto operator<=>(const Place&) const = default;
  };
  struct Stack {
    StackId below;
    NodeId back;  // where the call returns to
    int depth;
  };
  struct State {
    std::vector<Place> places;  // in order; with edges that take a byte
    bool is_complete = false;
    std::array<StateId, 256> next;
  };
  static constexpr StateId kUnknown = -3;

  [[nodiscard]] const State& at(StateId id) const { return states_[static_cast<std::size_t>(id)]; }
  [[nodiscard]] StackId stack_on(StackId below, NodeId back);
  // The state of these places and of all that is reached without a byte.
  [[nodiscard]] StateId find(std::vector<Place> open, bool is_complete);
  [[nodiscard]] bool fits(NodeId node, StackId stack, int more = 0) const;
  void visit(const Place& place, State& state, std::vector<Place>& open);

  const Grammar& grammar_;
  std::vector<State> states_;
  std::map<std::pair<std::vector<Place>, bool>, StateId> ids_;
  std::vector<Stack> stacks_;
  std::map<std::pair<StackId, NodeId>, StackId> stack_ids_;
  bool is_full_ = false;
  int64_t work_ = 0;  // places visited since the last begin_work()
  StateId start_;
};

}  // namespace shadowkv
