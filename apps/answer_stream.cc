#include "answer_stream.h"

#include <iostream>

namespace shadowkv::apps {

void AnswerStream::print(std::string_view text) {
  if (quiet_ || text.empty()) return;
  std::cout << text << std::flush;
  open_line_ = text.back() != '\n';
}

void AnswerStream::end_line() {
  if (open_line_) std::cout << std::endl;
  open_line_ = false;
}

}  // namespace shadowkv::apps
