#include "eval/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace shadowkv::eval {
namespace {

bool is_blank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

bool begins_sentence(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '"' || c == '\'' || c == '(' || c == '[' ||
         static_cast<unsigned char>(c) >= 0x80;  // an opening quote or a letter of UTF-8
}

bool ends_sentence(char c) {
  return c == '.' || c == '!' || c == '?';
}

}  // namespace

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t begin = at;
    while (at < text.size() && !is_blank(text[at])) ++at;
    if (at > begin) words.emplace_back(text.substr(begin, at - begin));
    while (at < text.size() && is_blank(text[at])) ++at;
  }
  return words;
}

std::string join(std::span<const std::string> parts, std::string_view between) {
  return fmt::format("{}", fmt::join(parts, between));
}

std::vector<std::string> split_sentences(std::string_view text) {
  std::vector<std::string> sentences;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (!ends_sentence(text[at]) || at + 1 >= text.size() || !is_blank(text[at + 1])) continue;
    std::size_t next = at + 1;
    while (next < text.size() && is_blank(text[next])) ++next;
    if (next == text.size() || !begins_sentence(text[next])) continue;
    sentences.emplace_back(text.substr(begin, at + 1 - begin));
    begin = next;
  }
  std::string rest = strip(text.substr(begin));
  if (!rest.empty()) sentences.push_back(std::move(rest));
  return sentences;
}

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty()) lines.emplace_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string fill_in(std::string text, std::string_view name, std::string_view value) {
  return replace_all(std::move(text), fmt::format("{{{}}}", name), value);
}

std::vector<std::string> digit_runs(std::string_view text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  std::vector<std::string> runs;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!is_digit(text[i])) continue;
    if (i == 0 || !is_digit(text[i - 1])) runs.emplace_back();
    runs.back() += text[i];
  }
  return runs;
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

std::string strip(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return std::string(text);
}

}  // namespace shadowkv::eval
