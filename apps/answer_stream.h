// An answer on standard output, piece by piece; the line is always ended, whatever stops it.
#pragma once

#include <string_view>

namespace shadowkv::apps {

class AnswerStream {
 public:
  // quiet: prints nothing.
  explicit AnswerStream(bool quiet) : quiet_(quiet) {}
  ~AnswerStream() { end_line(); }
  AnswerStream(const AnswerStream&) = delete;
  AnswerStream& operator=(const AnswerStream&) = delete;

  void print(std::string_view text);
  void end_line();

 private:
  bool quiet_;
  bool open_line_ = false;
};

}  // namespace shadowkv::apps
