// Answers that must match a pattern or a JSON schema: which tokens may come next, whatever came before. It is
// tokens' own bytes that count: what a tokenizer takes off the beginning of a text has been allowed as well.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "constraint/grammar.h"
#include "constraint/state_table.h"

namespace shadowkv {

// The texts of a vocabulary's tokens, in order, so that tokens that begin alike are walked once.
class Vocabulary {
 public:
  // texts: by id; tokens without text are never allowed by a constraint.
  explicit Vocabulary(std::vector<std::string> texts);

  struct Token {
    int32_t id;
    int32_t shared;  // bytes that it begins with like the one before
  };
  [[nodiscard]] int64_t size() const { return std::ssize(texts_); }
  [[nodiscard]] std::string_view text(int32_t id) const { return texts_[static_cast<std::size_t>(id)]; }
  [[nodiscard]] const std::vector<Token>& in_order() const { return in_order_; }
  [[nodiscard]] int64_t longest() const { return longest_; }
  // Bytes that are tokens: whatever they make up can be written, so that no answer runs into a dead end.
  [[nodiscard]] const std::bitset<256>& bytes() const { return bytes_; }

 private:
  std::vector<std::string> texts_;
  std::vector<Token> in_order_;
  int64_t longest_ = 0;
  std::bitset<256> bytes_;
};

enum class ConstraintKind : uint8_t {
  regex,        // of the whole answer
  json_schema,  // a value that satisfies it
  json_object   // any object
};

class Constraint;

// Where an answer stands within its constraint.
class ConstraintPosition {
 public:
  explicit ConstraintPosition(std::shared_ptr<const Constraint> constraint);

  // Bit id % 64 of word id / 64: whether that token may come next. Valid until the next call. Throws
  // InvalidInput where the constraint is beyond its bounds.
  [[nodiscard]] std::span<const uint64_t> mask();
  // Goes on behind a token that the mask allows; asks for no memory after mask(). What is not allowed is
  // ignored, as the end of an answer is.
  void take(int32_t token);
  // Whether the answer may end, and whether it may go on.
  [[nodiscard]] bool is_complete() const;
  [[nodiscard]] bool can_go_on() const;

 private:
  friend class Constraint;
  struct States;

  std::shared_ptr<const Constraint> constraint_;
  std::shared_ptr<States> states_;
  StateId state_ = 0;
};

// Compiled once, used by any number of answers, from any thread.
class Constraint {
 public:
  // Throws InvalidInput for what is malformed, not supported, too large, or cannot be written.
  Constraint(ConstraintKind kind, std::string_view text, std::shared_ptr<const Vocabulary> vocabulary);
  ~Constraint();
  Constraint(const Constraint&) = delete;
  Constraint& operator=(const Constraint&) = delete;

 private:
  friend class ConstraintPosition;
  using States = ConstraintPosition::States;

  [[nodiscard]] std::shared_ptr<States> states() const;
  // The same place in a table with room.
  void renew(ConstraintPosition& position) const;
  [[nodiscard]] bool fill_mask(States& states, StateId state) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  Grammar grammar_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<States> latest_;
};

}  // namespace shadowkv
