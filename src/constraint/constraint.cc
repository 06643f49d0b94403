#include "constraint/constraint.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "constraint/json_schema.h"
#include "constraint/json_text.h"
#include "constraint/regex.h"

namespace shadowkv {
namespace {

constexpr int64_t kMostMaskBytes = int64_t{16} << 20;  // of one table

void add_constraint(Grammar& grammar, ConstraintKind kind, std::string_view text) {
  const RuleId root = grammar.add_rule();
  switch (kind) {
    case ConstraintKind::regex:
      grammar.end_rule(add_regex(grammar, grammar.first(root), text, RegexMatch::whole, add_chars));
      return;
    case ConstraintKind::json_schema:
      return add_json_schema(grammar, text);
    case ConstraintKind::json_object:
      const JsonRules rules = add_json_rules(grammar);
      grammar.end_rule(grammar.call(grammar.first(root), rules.object));
      return;
  }
}

}  // namespace

// ---- vocabulary -------------------------------------------------------------------------------------------

Vocabulary::Vocabulary(std::vector<std::string> texts) : texts_(std::move(texts)) {
  std::vector<int32_t> ids;
  for (std::size_t id = 0; id < texts_.size(); ++id) {
    if (texts_[id].empty()) continue;
    ids.push_back(static_cast<int32_t>(id));
    longest_ = std::max(longest_, std::ssize(texts_[id]));
    if (texts_[id].size() == 1) bytes_.set(static_cast<unsigned char>(texts_[id][0]));
  }
  std::sort(ids.begin(), ids.end(),
            [&](int32_t a, int32_t b) { return std::pair(text(a), a) < std::pair(text(b), b); });
  std::string_view before;
  for (const int32_t id : ids) {
    const std::string_view own = text(id);
    const auto differs = std::mismatch(own.begin(), own.end(), before.begin(), before.end()).first;
    in_order_.push_back({.id = id, .shared = static_cast<int32_t>(differs - own.begin())});
    before = own;
  }
}

// ---- states -----------------------------------------------------------------------------------------------

// A table and the masks of its states.
struct ConstraintPosition::States {
  StateTable table;
  std::vector<std::vector<uint64_t>> masks;  // by state; empty where none was asked for
  int64_t mask_bytes = 0;

  explicit States(const Grammar& grammar) : table(grammar) {}
};

Constraint::Constraint(ConstraintKind kind, std::string_view text,
                       std::shared_ptr<const Vocabulary> vocabulary)
    : vocabulary_(std::move(vocabulary)) {
  add_constraint(grammar_, kind, text);
  grammar_.finish(vocabulary_->bytes());
  latest_ = std::make_shared<States>(grammar_);
}

Constraint::~Constraint() = default;

// Walks the vocabulary in order; false where the table is full.
bool Constraint::fill_mask(States& states, StateId state) const {
  std::vector<uint64_t> mask(static_cast<std::size_t>(ceil_div(vocabulary_->size(), 64)));
  std::vector<StateId> path(static_cast<std::size_t>(vocabulary_->longest() + 1), state);
  std::size_t alive = 0;  // bytes of the token before that led somewhere: path[0 .. alive]
  for (const Vocabulary::Token& token : vocabulary_->in_order()) {
    const auto shared = static_cast<std::size_t>(token.shared);
    if (shared > alive) continue;  // begins with what led nowhere
    const std::string_view text = vocabulary_->text(token.id);
    for (alive = shared; alive < text.size(); ++alive) {
      const StateId next = states.table.next(path[alive], static_cast<uint8_t>(text[alive]));
      if (next == StateTable::kFull) return false;
      if (next == StateTable::kDead) break;
      path[alive + 1] = next;
    }
    if (alive == text.size()) mask[static_cast<std::size_t>(token.id) / 64] |= uint64_t{1} << (token.id % 64);
  }
  const auto place = static_cast<std::size_t>(state);
  if (states.masks.size() <= place) states.masks.resize(place + 1);
  states.mask_bytes += std::ssize(mask) * 8;
  states.masks[place] = std::move(mask);
  return true;
}

// Positions in an older table keep it.
void Constraint::renew(ConstraintPosition& position) const {
  auto fresh = std::make_shared<States>(grammar_);
  const StateId state = fresh->table.adopt(position.states_->table, position.state_);
  require(state >= 0,
          "the constraint may be at too many places at once; make its parts easier to tell apart");
  latest_ = fresh;
  position.states_ = std::move(fresh);
  position.state_ = state;
}

std::shared_ptr<Constraint::States> Constraint::states() const {
  const std::lock_guard lock(mutex_);
  return latest_;
}

// ---- positions --------------------------------------------------------------------------------------------

ConstraintPosition::ConstraintPosition(std::shared_ptr<const Constraint> constraint)
    : constraint_(std::move(constraint)), states_(constraint_->states()), state_(states_->table.start()) {}

std::span<const uint64_t> ConstraintPosition::mask() {
  const std::lock_guard lock(constraint_->mutex_);
  const auto has_mask = [&] {
    const auto place = static_cast<std::size_t>(state_);
    return place < states_->masks.size() && !states_->masks[place].empty();
  };
  if (!has_mask()) {
    states_->table.begin_work();
    const bool has_room = states_->mask_bytes < kMostMaskBytes && constraint_->fill_mask(*states_, state_);
    if (!has_room) {
      constraint_->renew(*this);
      require(constraint_->fill_mask(*states_, state_),
              "the constraint has more than {} states within one token; simplify it", kMostStates);
    }
  }
  return states_->masks[static_cast<std::size_t>(state_)];
}

void ConstraintPosition::take(int32_t token) {
  const std::lock_guard lock(constraint_->mutex_);
  const Vocabulary& vocabulary = *constraint_->vocabulary_;
  if (token < 0 || token >= vocabulary.size() || vocabulary.text(token).empty()) return;
  StateId at = state_;
  for (const char byte : vocabulary.text(token)) {
    at = states_->table.next(at, static_cast<uint8_t>(byte));
    if (at < 0) return;
  }
  state_ = at;
}

bool ConstraintPosition::is_complete() const {
  const std::lock_guard lock(constraint_->mutex_);
  return states_->table.is_complete(state_);
}

bool ConstraintPosition::can_go_on() const {
  const std::lock_guard lock(constraint_->mutex_);
  return states_->table.can_go_on(state_);
}

}  // namespace shadowkv
