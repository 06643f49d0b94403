#include "table.h"

#include <algorithm>
#include <stdexcept>

namespace shadowkv::apps {
namespace {

// Characters of UTF-8 text, taken as one column each.
std::size_t width_of(const std::string& text) {
  const auto leads = [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; };
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), leads));
}

std::string line_of(const std::vector<std::string>& row, const std::vector<std::size_t>& widths) {
  std::string line;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const std::string padding(widths[i] - width_of(row[i]), ' ');
    line += i == 0 ? row[i] + padding : "  " + padding + row[i];
  }
  while (line.ends_with(' ')) line.pop_back();
  return line + "\n";
}

}  // namespace

Table::Table(std::vector<std::string> header) {
  rows_.push_back(std::move(header));
}

void Table::add(std::vector<std::string> row) {
  if (row.size() != rows_.front().size())
    throw std::logic_error("a table row has another length than its header");
  rows_.push_back(std::move(row));
}

std::string Table::text() const {
  std::vector<std::size_t> widths(rows_.front().size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string all = line_of(rows_.front(), widths);
  std::size_t total = 2 * (widths.size() - 1);
  for (std::size_t width : widths) total += width;
  all += std::string(total, '-') + "\n";
  for (std::size_t i = 1; i < rows_.size(); ++i) all += line_of(rows_[i], widths);
  return all;
}

}  // namespace shadowkv::apps
