// BABILong: the facts of a bAbI story scattered in their order between the sentences of a book.
#pragma once

#include <span>

#include "eval/draw.h"

namespace shadowkv::eval {

inline constexpr int64_t kBabiAnswerTokens = 20;

[[nodiscard]] const std::vector<std::string>& babilong_tasks();  // qa1 to qa5

struct BabiStory {
  std::vector<std::string> facts;  // up to the question
  std::string question;
  std::string answer;
};
// The stories of a bAbI file; `name` stands for it in messages. Throws InvalidInput for what is no such file.
[[nodiscard]] std::vector<BabiStory> parse_babi(std::string_view text, std::string_view name);
// Of folder/qaN_*_test.txt. Throws InvalidInput naming the missing file and its source, or the known tasks.
[[nodiscard]] std::vector<BabiStory> read_babi(const std::filesystem::path& folder, std::string_view task);

[[nodiscard]] Prompt babilong_prompt(std::string_view task, std::string_view context,
                                     std::string_view question);

// The story of the draw's index among sentences of the book, from a place that is drawn. Throws InvalidInput
// where there are fewer stories.
[[nodiscard]] Sample make_babilong(std::span<const BabiStory> stories, std::span<const std::string> sentences,
                                   const Draw& draw);

}  // namespace shadowkv::eval
