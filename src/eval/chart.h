// Plots as SVG text, to stand in a page or alone: no scripts, no fonts, nothing from a network.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/statistics.h"

namespace shadowkv::eval {

// Of the i-th method in every plot; told apart by those who see fewer colours, too.
[[nodiscard]] std::string_view series_colour(std::size_t i);
// & < > " as entities.
[[nodiscard]] std::string escaped(std::string_view text);
// "4K", "128K", "1M", or the number itself; "any" for 0.
[[nodiscard]] std::string length_label(int64_t tokens);

struct Series {
  std::string name;
  std::vector<double> values;       // by x; not a number: no point
  std::vector<Interval> intervals;  // of the same number, or empty
};

// Lines with whiskers over named places of x; y runs from 0 to 100.
struct LineChart {
  std::string title;
  std::vector<std::string> places;
  std::vector<Series> series;
};
[[nodiscard]] std::string svg_of(const LineChart& chart);

// Values 0 to 1 by row and column, from red over amber to green.
struct HeatMap {
  std::string title;
  std::string caption;
  std::vector<std::string> columns;  // context lengths
  std::vector<std::string> rows;     // depths, from the top
  std::vector<double> values;        // [rows][columns]; not a number: no sample
};
[[nodiscard]] std::string svg_of(const HeatMap& map);
[[nodiscard]] std::string svg_of(const std::vector<HeatMap>& maps);  // side by side

struct Colour {
  int red = 0, green = 0, blue = 0;
};
[[nodiscard]] Colour heat_colour(double value);  // grey for what is not a number

}  // namespace shadowkv::eval
