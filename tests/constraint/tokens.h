// A small vocabulary, and texts that follow a constraint at random.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "constraint/constraint.h"

namespace shadowkv::testing {

// Every byte, and some texts of several; id 300 has none.
inline std::vector<std::string> small_texts() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
  for (const char* text :
       {"{\"", "\": ", "\", \"", "true", "null", "[",    "]]",   "}}",    "abc", "é",   "\xc3", "\"}",
        "  ",  "\\u",  "12",     "3.5e", "ab",   "abcd", "\n  ", "false", ", ",  "\":", "😀"}) {
    texts.emplace_back(text);
  }
  texts.resize(300);
  return texts;
}

inline std::shared_ptr<const Vocabulary> small_vocabulary() {
  static const auto only = std::make_shared<const Vocabulary>(small_texts());
  return only;
}

inline std::shared_ptr<const Constraint> compile(ConstraintKind kind, std::string_view text) {
  return std::make_shared<const Constraint>(kind, text, small_vocabulary());
}

// Whether the bytes are allowed one by one, and whole at the end.
inline bool takes(const std::shared_ptr<const Constraint>& constraint, std::string_view text) {
  ConstraintPosition position(constraint);
  for (const char c : text) {
    const auto id = static_cast<int32_t>(static_cast<unsigned char>(c));
    if ((position.mask()[static_cast<std::size_t>(id) / 64] >> (id % 64) & 1) == 0) return false;
    position.take(id);
  }
  return position.is_complete();
}

inline std::vector<int32_t> allowed(ConstraintPosition& position) {
  std::vector<int32_t> ids;
  const auto mask = position.mask();
  for (int32_t id = 0; id < 300; ++id) {
    if ((mask[static_cast<std::size_t>(id) / 64] >> (id % 64) & 1) != 0) ids.push_back(id);
  }
  return ids;
}

// Tokens at random until the constraint ends, or chance has it where it may.
inline std::string random_answer(const std::shared_ptr<const Constraint>& constraint, std::mt19937& random) {
  ConstraintPosition position(constraint);
  std::string text;
  for (int i = 0; i < 1'000'000; ++i) {
    if (position.is_complete() && (!position.can_go_on() || random() % 4 == 0)) return text;
    const std::vector<int32_t> ids = allowed(position);
    if (ids.empty()) break;
    const int32_t id = ids[random() % ids.size()];
    text += small_vocabulary()->text(id);
    position.take(id);
  }
  ADD_FAILURE() << "nothing may follow: " << text;
  return text;
}

}  // namespace shadowkv::testing
