#include "eval/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

namespace shadowkv::eval {
namespace {

constexpr const char* kFont = "font-family=\"sans-serif\" font-size=\"12\"";

// Lays out one line chart, in pixels.
struct Frame {
  double left = 46, top = 34, width = 420, height = 220;
  std::size_t places = 1;

  [[nodiscard]] double x(std::size_t place) const {
    return left + width * (static_cast<double>(place) + 0.5) / static_cast<double>(places);
  }
  [[nodiscard]] double y(double value) const { return top + height * (1 - value / 100); }
};

void add_axes(std::string& svg, const Frame& frame, const LineChart& chart) {
  for (int tick = 0; tick <= 100; tick += 20) {
    fmt::format_to(std::back_inserter(svg),
                   "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" stroke=\"#ddd\"/>"
                   "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>\n",
                   frame.left, frame.left + frame.width, frame.y(tick), frame.left - 6, frame.y(tick) + 4,
                   tick);
  }
  for (std::size_t i = 0; i < chart.places.size(); ++i) {
    fmt::format_to(std::back_inserter(svg), "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                   frame.x(i), frame.top + frame.height + 18, escaped(chart.places[i]));
  }
}

// Points of neighbouring series stand a little apart, so that none hides another's whisker.
void add_series(std::string& svg, const Frame& frame, const Series& series, std::size_t number,
                double shift) {
  const std::string_view colour = series_colour(number);
  std::string path;
  for (std::size_t i = 0; i < series.values.size(); ++i) {
    if (std::isnan(series.values[i])) continue;
    const double x = frame.x(i) + shift, y = frame.y(series.values[i]);
    path += fmt::format("{}{:.1f} {:.1f} ", path.empty() ? "M" : "L", x, y);
    if (i < series.intervals.size()) {
      fmt::format_to(std::back_inserter(svg),
                     "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\"/>\n",
                     x, frame.y(series.intervals[i].low), frame.y(series.intervals[i].high), colour);
    }
    fmt::format_to(
        std::back_inserter(svg),
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\"><title>{}: {:.1f}</title></circle>\n", x,
        y, colour, escaped(series.name), series.values[i]);
  }
  fmt::format_to(std::back_inserter(svg),
                 "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"/>\n", path, colour);
}

void add_legend(std::string& svg, const Frame& frame, const LineChart& chart) {
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const double y = frame.top + frame.height + 40 + 18 * static_cast<double>(i);
    fmt::format_to(
        std::back_inserter(svg),
        "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>\n",
        frame.left, y - 10, series_colour(i), frame.left + 18, y, escaped(chart.series[i].name));
  }
}

std::string open_svg(double width, double height, const std::string& title) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
      "{1:.0f}\" {2} "
      "role=\"img\">\n<title>{3}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"12\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{3}</text>\n",
      width, height, kFont, escaped(title));
}

constexpr Colour kRed{0xf0, 0x49, 0x6e}, kAmber{0xeb, 0xb8, 0x39}, kGreen{0x0c, 0xd7, 0x9f},
    kGrey{0xdd, 0xdd, 0xdd};

int between(int a, int b, double share) {
  return static_cast<int>(std::lround(a + (b - a) * share));
}

Colour between(Colour a, Colour b, double share) {
  return {between(a.red, b.red, share), between(a.green, b.green, share), between(a.blue, b.blue, share)};
}

constexpr double kSide = 34, kLeft = 60, kTop = 34;  // of a heat map: a cell's side, and where the first lies

double map_width(const HeatMap& map) {
  return std::max(kLeft + kSide * static_cast<double>(map.columns.size()) + 12, 460.0);
}

double map_height(const HeatMap& map) {
  return kTop + kSide * static_cast<double>(map.rows.size()) + 62;
}

void add_cell(std::string& svg, double x, double y, double side, double value) {
  const Colour colour = heat_colour(value);
  fmt::format_to(std::back_inserter(svg),
                 "<rect x=\"{0:.1f}\" y=\"{1:.1f}\" width=\"{2:.1f}\" height=\"{2:.1f}\" "
                 "fill=\"#{3:02x}{4:02x}{5:02x}\" stroke=\"white\"/>",
                 x, y, side, colour.red, colour.green, colour.blue);
  if (std::isnan(value)) return;
  fmt::format_to(std::back_inserter(svg),
                 "<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"10\" text-anchor=\"middle\">{:.2g}</text>\n",
                 x + side / 2, y + side / 2 + 4, value);
}

}  // namespace

std::string_view series_colour(std::size_t i) {
  constexpr std::array<std::string_view, 8> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                        "#e69f00", "#56b4e9", "#000000", "#8c8c00"};
  return kColours[i % kColours.size()];
}

std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    if (c == '&') {
      safe += "&amp;";
    } else if (c == '<') {
      safe += "&lt;";
    } else if (c == '>') {
      safe += "&gt;";
    } else if (c == '"') {
      safe += "&quot;";
    } else if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') {
      safe += ' ';  // not allowed in XML
    } else {
      safe += c;
    }
  }
  return safe;
}

std::string length_label(int64_t tokens) {
  constexpr int64_t kKilo = 1024;
  if (tokens == 0) return "any";
  if (tokens >= kKilo * kKilo && tokens % (kKilo * kKilo) == 0)
    return fmt::format("{}M", tokens / kKilo / kKilo);
  if (tokens >= kKilo && tokens % kKilo == 0) return fmt::format("{}K", tokens / kKilo);
  return fmt::format("{}", tokens);
}

std::string svg_of(const LineChart& chart) {
  Frame frame;
  frame.places = std::max<std::size_t>(chart.places.size(), 1);
  const double height = frame.top + frame.height + 40 + 18 * static_cast<double>(chart.series.size());
  std::string svg = open_svg(frame.left + frame.width + 12, height, chart.title);
  add_axes(svg, frame, chart);
  const double middle = (static_cast<double>(chart.series.size()) - 1) / 2;
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    add_series(svg, frame, chart.series[i], i, 5 * (static_cast<double>(i) - middle));
  }
  add_legend(svg, frame, chart);
  return svg + "</svg>\n";
}

Colour heat_colour(double value) {
  if (std::isnan(value)) return kGrey;
  const double at = std::clamp(value, 0.0, 1.0);
  return at < 0.5 ? between(kRed, kAmber, 2 * at) : between(kAmber, kGreen, 2 * at - 1);
}

std::string svg_of(const std::vector<HeatMap>& maps) {
  double width = 0, height = 0;
  for (const HeatMap& map : maps) {
    width += map_width(map);
    height = std::max(height, map_height(map));
  }
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0f}\" height=\"{:.0f}\">\n", width, height);
  double left = 0;
  for (const HeatMap& map : maps) {
    svg += fmt::format("<g transform=\"translate({:.0f} 0)\">\n{}</g>\n", left, svg_of(map));
    left += map_width(map);
  }
  return svg + "</svg>\n";
}

std::string svg_of(const HeatMap& map) {
  const double height = kSide * static_cast<double>(map.rows.size());
  std::string svg = open_svg(map_width(map), map_height(map), map.title);
  for (std::size_t row = 0; row < map.rows.size(); ++row) {
    const double y = kTop + kSide * static_cast<double>(row);
    fmt::format_to(std::back_inserter(svg), "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
                   kLeft - 6, y + kSide / 2 + 4, escaped(map.rows[row]));
    for (std::size_t column = 0; column < map.columns.size(); ++column) {
      add_cell(svg, kLeft + kSide * static_cast<double>(column), y, kSide,
               map.values.at(row * map.columns.size() + column));
    }
  }
  for (std::size_t column = 0; column < map.columns.size(); ++column) {
    fmt::format_to(std::back_inserter(svg),
                   "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                   kLeft + kSide * (static_cast<double>(column) + 0.5), kTop + height + 16,
                   escaped(map.columns[column]));
  }
  fmt::format_to(std::back_inserter(svg),
                 "<text x=\"12\" y=\"{0:.1f}\">x: context length in tokens; y: depth of the needle</text>\n"
                 "<text x=\"12\" y=\"{1:.1f}\">{2}</text>\n",
                 kTop + height + 36, kTop + height + 54, escaped(map.caption));
  return svg + "</svg>\n";
}

}  // namespace shadowkv::eval
