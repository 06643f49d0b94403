// Lines of a user: from a terminal, with editing and history where the build has them, or from a pipe.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace shadowkv::apps {

enum class ReadStatus { line, end, interrupted };

struct ReadLine {
  ReadStatus status = ReadStatus::end;
  std::string text = {};  // of a line, without its end
};

class LineReader {
 public:
  // Edits where standard input and output are a terminal that can move its cursor.
  static std::unique_ptr<LineReader> open();
  virtual ~LineReader() = default;

  // The next line; a terminal is shown the prompt. Throws InvalidInput where reading fails.
  virtual ReadLine read(std::string_view prompt) = 0;
};

// Waits until there is something to read from standard input, or its end; false where Ctrl-C or SIGTERM came
// before.
[[nodiscard]] bool wait_for_input();

// Whether a person sits there: standard input is a terminal.
[[nodiscard]] bool stdin_is_terminal();

}  // namespace shadowkv::apps
