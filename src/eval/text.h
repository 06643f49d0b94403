// Small things about text that the generators share.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv::eval {

[[nodiscard]] std::vector<std::string> split_words(std::string_view text);  // at runs of white space
[[nodiscard]] std::string join(std::span<const std::string> parts, std::string_view between);
// After . ! or ? where white space and what can begin a sentence follow; white space between sentences goes.
[[nodiscard]] std::vector<std::string> split_sentences(std::string_view text);
[[nodiscard]] std::vector<std::string> split_lines(std::string_view text);  // empty ones left out
// Every "{name}" replaced.
[[nodiscard]] std::string fill_in(std::string text, std::string_view name, std::string_view value);
[[nodiscard]] std::string replace_all(std::string text, std::string_view from, std::string_view to);
// ASCII letters alone; what is beyond stays.
[[nodiscard]] std::string lower_case(std::string_view text);
[[nodiscard]] std::vector<std::string> digit_runs(std::string_view text);  // each as long as it goes
[[nodiscard]] std::string strip(std::string_view text);                    // white space at both ends

}  // namespace shadowkv::eval
