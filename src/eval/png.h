// Pictures of plain colours as PNG files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/chart.h"

namespace shadowkv::eval {

class Picture {
 public:
  Picture(int64_t width, int64_t height);  // white

  [[nodiscard]] int64_t width() const { return width_; }
  [[nodiscard]] int64_t height() const { return height_; }
  [[nodiscard]] Colour at(int64_t x, int64_t y) const;
  // What lies outside of the picture is left out.
  void fill(int64_t x, int64_t y, int64_t width, int64_t height, Colour colour);
  // Letters of ASCII as capitals, 3 x 5 points of `scale` pixels with one between; others as blanks.
  void write(int64_t x, int64_t y, std::string_view text, int64_t scale);
  [[nodiscard]] static int64_t text_width(std::string_view text, int64_t scale);

  [[nodiscard]] std::string png() const;  // not compressed

 private:
  int64_t width_, height_;
  std::vector<uint8_t> rgb_;  // [height][width][3]
};

// The same plots as their SVG, side by side.
[[nodiscard]] std::string png_of(const std::vector<HeatMap>& maps);

}  // namespace shadowkv::eval
