#include "chat_input.h"

#include <utility>

namespace shadowkv::apps {
namespace {

constexpr std::string_view kQuotes = "\"\"\"";
constexpr std::string_view kBlanks = " \t";

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

}  // namespace

std::optional<std::string> MessageLines::add(std::string_view line) {
  if (is_quoted_) return add_quoted(line);
  if (!is_continued_ && line.starts_with(kQuotes)) {
    is_quoted_ = true;
    return add_quoted(line.substr(kQuotes.size()));
  }
  is_continued_ = line.ends_with('\\');
  text_.append(is_continued_ ? line.substr(0, line.size() - 1) : line);
  if (!is_continued_) return take();
  text_.push_back('\n');
  return std::nullopt;
}

// The line ends after what closes the quotes stand for nothing.
std::optional<std::string> MessageLines::add_quoted(std::string_view line) {
  const std::string_view end = trimmed(line);
  if (!end.ends_with(kQuotes)) {
    if (!text_.empty() || !line.empty()) text_.append(line).push_back('\n');
    return std::nullopt;
  }
  text_.append(line.substr(0, line.rfind(kQuotes)));
  if (text_.ends_with('\n')) text_.pop_back();
  return take();
}

std::optional<std::string> MessageLines::finish() {
  if (!is_open()) return std::nullopt;
  if (text_.ends_with('\n')) text_.pop_back();
  return take();
}

std::string MessageLines::take() {
  was_quoted_ = std::exchange(is_quoted_, false);
  is_continued_ = false;
  return std::exchange(text_, {});
}

void MessageLines::clear() {
  (void)take();
}

std::optional<ChatCommandLine> command_of(std::string_view line) {
  if (!line.starts_with('/') || line.starts_with("//")) return std::nullopt;
  const std::size_t end = line.find_first_of(" \t\n");
  if (end == std::string_view::npos) return ChatCommandLine{std::string(line.substr(1)), {}};
  return ChatCommandLine{std::string(line.substr(1, end - 1)), std::string(trimmed(line.substr(end)))};
}

std::string_view message_of(std::string_view line) {
  return line.substr(line.starts_with("//") ? 1 : 0);
}

}  // namespace shadowkv::apps
