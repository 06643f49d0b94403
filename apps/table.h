// Columns of text, lined up: the first to the left, the others to the right.
#pragma once

#include <string>
#include <vector>

namespace shadowkv::apps {

class Table {
 public:
  explicit Table(std::vector<std::string> header);

  // As many cells as the header has; throws std::logic_error otherwise.
  void add(std::vector<std::string> row);
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the header first
};

}  // namespace shadowkv::apps
