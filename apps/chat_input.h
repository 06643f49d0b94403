// What a user of the chat types: messages of one or several lines, and commands.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace shadowkv::apps {

// Puts lines together: a line that ends in a backslash goes on in the next, and from a line that begins with
// """ to one that ends with it everything is taken as it is.
class MessageLines {
 public:
  // The message once it is whole.
  std::optional<std::string> add(std::string_view line);
  // The message as far as it has come, at the end of the input; nullopt where none has begun.
  std::optional<std::string> finish();
  // Whether more lines belong to what has begun.
  [[nodiscard]] bool is_open() const { return is_quoted_ || is_continued_; }
  // Whether the last message was quoted: then it is no command, whatever it begins with.
  [[nodiscard]] bool was_quoted() const { return was_quoted_; }
  void clear();

 private:
  std::optional<std::string> add_quoted(std::string_view line);
  std::string take();

  std::string text_;
  bool is_quoted_ = false, is_continued_ = false, was_quoted_ = false;
};

// "/save a file" -> "save", "a file".
struct ChatCommandLine {
  std::string name, argument;
};
// nullopt for a message: what does not begin with a slash, or begins with two, one of which is then taken off
// by message_of().
[[nodiscard]] std::optional<ChatCommandLine> command_of(std::string_view line);
[[nodiscard]] std::string_view message_of(std::string_view line);

}  // namespace shadowkv::apps
