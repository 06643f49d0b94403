#include "line_reader.h"

#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <iostream>

#include "base/check.h"
#include "interrupt.h"
#include "line_editor.h"

namespace shadowkv::apps {
namespace {

// While it lives, Ctrl-C throws away nothing that a terminal has not shown yet: what answers to it would be
// lost at times.
class KeptOutput {
 public:
  KeptOutput() {
    if (tcgetattr(STDIN_FILENO, &before_) != 0) return;  // no terminal
    termios kept = before_;
    kept.c_lflag |= NOFLSH;
    is_set_ = tcsetattr(STDIN_FILENO, TCSANOW, &kept) == 0;
  }
  ~KeptOutput() {
    if (is_set_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  KeptOutput(const KeptOutput&) = delete;
  KeptOutput& operator=(const KeptOutput&) = delete;

 private:
  termios before_{};
  bool is_set_ = false;
};

// What the system hands out, cut at line ends.
class PlainReader final : public LineReader {
 public:
  ReadLine read(std::string_view prompt) override {
    if (stdin_is_terminal()) std::cout << prompt << std::flush;
    while (true) {
      const std::size_t end = buffer_.find('\n');
      if (end != std::string::npos) return take(end, 1);
      if (!wait_for_input()) return {.status = ReadStatus::interrupted};
      if (!fill()) break;
    }
    return buffer_.empty() ? ReadLine{} : take(buffer_.size(), 0);
  }

 private:
  // False at the end.
  bool fill() {
    std::array<char, 65536> piece{};
    const ssize_t got = ::read(STDIN_FILENO, piece.data(), piece.size());
    require(got >= 0 || errno == EINTR, "reading standard input failed: {}", std::strerror(errno));
    if (got > 0) buffer_.append(piece.data(), static_cast<std::size_t>(got));
    return got != 0;
  }
  ReadLine take(std::size_t size, std::size_t skipped) {
    ReadLine line{.status = ReadStatus::line, .text = buffer_.substr(0, size)};
    buffer_.erase(0, size + skipped);
    if (line.text.ends_with('\r')) line.text.pop_back();
    return line;
  }

  KeptOutput kept_output_;
  std::string buffer_;
};

}  // namespace

std::unique_ptr<LineReader> LineReader::open() {
  std::unique_ptr<LineReader> editor = open_line_editor();
  return editor ? std::move(editor) : std::make_unique<PlainReader>();
}

bool wait_for_input() {
  // A signal may come after it was looked for, or to another thread, and then wakes nothing.
  constexpr int kLookAgainMs = 50;
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  int ready = 0;
  while (!interrupted() && ready == 0) {
    ready = ::poll(&input, 1, kLookAgainMs);
    if (ready < 0 && errno == EINTR) ready = 0;
  }
  return !interrupted();
}

bool stdin_is_terminal() {
  return isatty(STDIN_FILENO) == 1;
}

}  // namespace shadowkv::apps
