// RULER's eight needle tasks: sentences "One of the special magic numbers for KEY is: VALUE." within filler.
#pragma once

#include <span>

#include "eval/draw.h"

namespace shadowkv::eval {

enum class Filler : uint8_t { noise, essay, needles };
enum class Token : uint8_t { words, numbers, uuids };

struct NiahTask {
  Filler filler;
  Token key;
  Token value;
  int64_t keys = 1;     // planted
  int64_t values = 1;   // of each key
  int64_t queries = 1;  // keys asked for
};

inline constexpr const char* kNoiseLine =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
inline constexpr int64_t kNiahAnswerTokens = 128;

[[nodiscard]] Sample make_niah(const NiahTask& task, const Draw& draw);

// The parts that a sample is made of, for checks against finished ones.
[[nodiscard]] std::string needle_sentence(Token value_kind, std::string_view key, std::string_view value);
// Needles at the given percentages of the sentences, ascending.
[[nodiscard]] std::string essay_context(std::span<const std::string> sentences,
                                        std::span<const std::string> needles,
                                        std::span<const int64_t> depths);
// Each needle before the filler line of its index, ascending.
[[nodiscard]] std::string line_context(std::span<const std::string> lines,
                                       std::span<const std::string> needles, std::span<const int64_t> before);
[[nodiscard]] Prompt niah_prompt(Token value_kind, std::string_view context,
                                 std::span<const std::string> queries, bool one_answer);

}  // namespace shadowkv::eval
