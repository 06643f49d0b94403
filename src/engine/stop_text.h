// Texts that end an answer, looked for in its text as it comes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace shadowkv {

// Holds back what may be the beginning of a stop text, and no more. Pieces and stop texts are whole
// characters of UTF-8, so that what is held back and what is let go are, too.
class StopText {
 public:
  explicit StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // What may be shown of the text so far and was not. The stop text that ends first counts, of several the
  // longest: so the pieces that a text comes in change nothing.
  [[nodiscard]] std::string add(std::string_view piece);
  // What was held back and turned out to be no stop text.
  [[nodiscard]] std::string finish();
  [[nodiscard]] bool is_found() const { return is_found_; }

 private:
  [[nodiscard]] std::size_t held_bytes() const;

  std::vector<std::string> stops_;
  std::string held_;
  bool is_found_ = false;
};

}  // namespace shadowkv
