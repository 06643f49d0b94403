// A run as one HTML page that opens without a network.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "eval/result_file.h"
#include "eval/summary.h"

namespace shadowkv::eval {

struct ReportText {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;  // "model" and its name, and so on
  std::vector<std::string> figures;                        // SVG that stands before the tables
};

// Tables of means with their intervals, paired differences, costs, plots, and the samples on which methods
// differ.
[[nodiscard]] std::string html_report(const ReportText& text, std::span<const Result> results);

}  // namespace shadowkv::eval
