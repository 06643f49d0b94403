#include "line_editor.h"

#include <histedit.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "base/check.h"
#include "interrupt.h"

namespace shadowkv::apps {
namespace {

constexpr int kHistoryLines = 500;

// The next byte of standard input; 0 at its end, and -1 for Ctrl-C, which libedit's own reading passes over.
int read_byte(unsigned char& byte) {
  while (wait_for_input()) {
    const ssize_t got = ::read(STDIN_FILENO, &byte, 1);
    if (got >= 0) return static_cast<int>(got);
    if (errno != EINTR) break;
  }
  return -1;
}

// One character of UTF-8; bytes that are none count as Latin-1, so that no key is lost.
int read_character(EditLine* /*editor*/, wchar_t* character) {
  unsigned char byte = 0;
  if (const int got = read_byte(byte); got != 1) return got;
  const int more = byte >= 0xF0 ? 3 : byte >= 0xE0 ? 2 : byte >= 0xC0 ? 1 : 0;
  wchar_t value = more == 0 ? byte : byte & (0x3F >> more);
  for (int i = 0; i < more; ++i) {
    if (const int got = read_byte(byte); got != 1) return got;
    value = (value << 6) | (byte & 0x3F);
  }
  *character = value;
  return 1;
}

class LineEditor final : public LineReader {
 public:
  LineEditor() : editor_(el_init("shadowkv", stdin, stdout, stderr)), history_(history_init()) {
    if (editor_ == nullptr || history_ == nullptr) throw std::bad_alloc();
    HistEvent event{};
    history(history_.get(), &event, H_SETSIZE, kHistoryLines);
    history(history_.get(), &event, H_SETUNIQUE, 1);
    el_set(editor_.get(), EL_CLIENTDATA, this);
    el_set(editor_.get(), EL_PROMPT, &LineEditor::prompt_of);
    el_set(editor_.get(), EL_EDITOR, "emacs");
    el_set(editor_.get(), EL_HIST, history, history_.get());
    el_set(editor_.get(), EL_GETCFN, &read_character);
    // While lines are edited, and else, Ctrl-C throws away nothing that has not been shown yet.
    for (const char* mode : {"-d", "-x"}) el_set(editor_.get(), EL_SETTY, mode, "+noflsh", nullptr);
  }

  ReadLine read(std::string_view prompt) override {
    prompt_ = prompt;
    int bytes = 0;
    const char* text = el_gets(editor_.get(), &bytes);
    if (text == nullptr) return {.status = interrupted() ? ReadStatus::interrupted : ReadStatus::end};
    std::string line(text, static_cast<std::size_t>(bytes));
    if (line.ends_with('\n')) line.pop_back();
    HistEvent event{};
    if (!line.empty()) history(history_.get(), &event, H_ENTER, line.c_str());
    return {.status = ReadStatus::line, .text = std::move(line)};
  }

 private:
  static char* prompt_of(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return static_cast<LineEditor*>(self)->prompt_.data();
  }

  struct EndEditor {
    void operator()(EditLine* editor) const { el_end(editor); }
  };
  struct EndHistory {
    void operator()(History* history) const { history_end(history); }
  };

  std::unique_ptr<EditLine, EndEditor> editor_;
  std::unique_ptr<History, EndHistory> history_;
  std::string prompt_;
};

// Whether the terminal can move its cursor.
bool is_able() {
  const char* name = std::getenv("TERM");  // NOLINT(concurrency-mt-unsafe): before any thread asks
  const std::string_view terminal = name == nullptr ? "" : name;
  return !terminal.empty() && terminal != "dumb" && isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1;
}

}  // namespace

std::unique_ptr<LineReader> open_line_editor() {
  if (!is_able()) return nullptr;
  std::setlocale(LC_CTYPE, "C.UTF-8");  // NOLINT(concurrency-mt-unsafe): what libedit writes characters by
  return std::make_unique<LineEditor>();
}

}  // namespace shadowkv::apps
