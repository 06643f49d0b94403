#include "eval/png.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"

namespace shadowkv::eval {
namespace {

constexpr int64_t kGlyphWidth = 3, kGlyphHeight = 5;

// Five rows of three points, an octal digit a row.
uint32_t glyph_of(char c) {
  constexpr std::array<uint32_t, 10> kDigits = {075557, 026227, 071747, 071717, 055711,
                                                074717, 074757, 071122, 075757, 075717};
  constexpr std::array<uint32_t, 26> kLetters = {
      025755, 065656, 034443, 065556, 074647, 074644, 034553, 055755, 072227, 011152, 055655, 044447, 057755,
      065555, 025552, 065644, 025563, 065655, 034216, 072222, 055557, 055552, 055775, 055255, 055222, 071247};
  if (c >= '0' && c <= '9') return kDigits.at(static_cast<std::size_t>(c - '0'));
  if (c >= 'a' && c <= 'z') return kLetters.at(static_cast<std::size_t>(c - 'a'));
  if (c >= 'A' && c <= 'Z') return kLetters.at(static_cast<std::size_t>(c - 'A'));
  constexpr std::array<std::pair<char, uint32_t>, 10> kOthers = {{{'%', 051245},
                                                                  {'.', 000002},
                                                                  {',', 000024},
                                                                  {'-', 000700},
                                                                  {':', 002020},
                                                                  {'=', 007070},
                                                                  {'+', 002720},
                                                                  {'_', 000007},
                                                                  {'/', 011244},
                                                                  {'(', 012221}}};
  const auto* found =
      std::find_if(kOthers.begin(), kOthers.end(), [c](const auto& other) { return other.first == c; });
  return found == kOthers.end() ? 0 : found->second;
}

void add_u32(std::string& bytes, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>((value >> shift) & 0xffu);
}

// CRC-32 of ISO 3309.
uint32_t crc_of(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

uint32_t adler_of(std::string_view bytes) {
  constexpr uint32_t kModulus = 65521;
  uint32_t a = 1, b = 0;
  for (const char c : bytes) {
    a = (a + static_cast<unsigned char>(c)) % kModulus;
    b = (b + a) % kModulus;
  }
  return (b << 16) | a;
}

void add_chunk(std::string& file, const char* type, const std::string& data) {
  add_u32(file, static_cast<uint32_t>(data.size()));
  const std::string body = type + data;
  file += body;
  add_u32(file, crc_of(body));
}

// A zlib stream of stored blocks.
std::string stored(std::string_view bytes) {
  std::string stream = "\x78\x01";
  std::string_view rest = bytes;
  do {
    const std::string_view block = rest.substr(0, 65535);
    rest.remove_prefix(block.size());
    const auto length = static_cast<uint32_t>(block.size());
    stream += rest.empty() ? '\x01' : '\x00';
    for (const uint32_t value : {length, ~length}) {
      stream += static_cast<char>(value & 0xffu);
      stream += static_cast<char>((value >> 8) & 0xffu);
    }
    stream += block;
  } while (!rest.empty());
  add_u32(stream, adler_of(bytes));
  return stream;
}

constexpr int64_t kSide = 44, kLeft = 64, kTop = 34, kBelow = 60, kScale = 2;

int64_t map_width(const HeatMap& map) {
  const int64_t columns = kLeft + kSide * static_cast<int64_t>(map.columns.size()) + 16;
  const int64_t texts =
      std::max(Picture::text_width(map.title, kScale + 1), Picture::text_width(map.caption, kScale));
  return std::max(columns, texts + 24);
}

int64_t map_height(const HeatMap& map) {
  return kTop + kSide * static_cast<int64_t>(map.rows.size()) + kBelow;
}

void write_middle(Picture& picture, int64_t x, int64_t y, const std::string& text) {
  picture.write(x - Picture::text_width(text, kScale) / 2, y, text, kScale);
}

void draw(Picture& picture, int64_t left, const HeatMap& map) {
  picture.write(left + 8, 10, map.title, kScale + 1);
  const auto columns = static_cast<int64_t>(map.columns.size()), rows = static_cast<int64_t>(map.rows.size());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t y = kTop + kSide * row;
    const std::string& label = map.rows[static_cast<std::size_t>(row)];
    picture.write(left + kLeft - 6 - Picture::text_width(label, kScale), y + kSide / 2 - 5, label, kScale);
    for (int64_t column = 0; column < columns; ++column) {
      const double value = map.values.at(static_cast<std::size_t>(row * columns + column));
      const int64_t x = left + kLeft + kSide * column;
      picture.fill(x, y, kSide - 1, kSide - 1, heat_colour(value));  // a white grid stays
      if (!std::isnan(value))
        write_middle(picture, x + kSide / 2, y + kSide / 2 - 5, fmt::format("{:.2g}", value));
    }
  }
  const int64_t below = kTop + kSide * rows;
  for (int64_t column = 0; column < columns; ++column) {
    write_middle(picture, left + kLeft + kSide * column + kSide / 2, below + 8,
                 map.columns[static_cast<std::size_t>(column)]);
  }
  picture.write(left + 8, below + 36, map.caption, kScale);
}

}  // namespace

Picture::Picture(int64_t width, int64_t height) : width_(width), height_(height) {
  require(width >= 1 && height >= 1 && width <= 32768 && height <= 32768,
          "a picture of {} x {} pixels cannot be made; each side is from 1 to 32768", width, height);
  rgb_.assign(static_cast<std::size_t>(3 * width * height), 255);
}

Colour Picture::at(int64_t x, int64_t y) const {
  const auto i = static_cast<std::size_t>(3 * (y * width_ + x));
  return {rgb_.at(i), rgb_.at(i + 1), rgb_.at(i + 2)};
}

void Picture::fill(int64_t x, int64_t y, int64_t width, int64_t height, Colour colour) {
  for (int64_t row = std::max<int64_t>(y, 0); row < std::min(y + height, height_); ++row) {
    for (int64_t column = std::max<int64_t>(x, 0); column < std::min(x + width, width_); ++column) {
      const auto i = static_cast<std::size_t>(3 * (row * width_ + column));
      rgb_[i] = static_cast<uint8_t>(colour.red);
      rgb_[i + 1] = static_cast<uint8_t>(colour.green);
      rgb_[i + 2] = static_cast<uint8_t>(colour.blue);
    }
  }
}

int64_t Picture::text_width(std::string_view text, int64_t scale) {
  return static_cast<int64_t>(text.size()) * (kGlyphWidth + 1) * scale;
}

void Picture::write(int64_t x, int64_t y, std::string_view text, int64_t scale) {
  for (const char c : text) {
    const uint32_t glyph = glyph_of(c);
    for (int64_t point = 0; point < kGlyphWidth * kGlyphHeight; ++point) {
      if ((glyph >> (kGlyphWidth * kGlyphHeight - 1 - point) & 1u) == 0) continue;
      fill(x + point % kGlyphWidth * scale, y + point / kGlyphWidth * scale, scale, scale, {0, 0, 0});
    }
    x += (kGlyphWidth + 1) * scale;
  }
}

std::string Picture::png() const {
  std::string header;
  add_u32(header, static_cast<uint32_t>(width_));
  add_u32(header, static_cast<uint32_t>(height_));
  header += std::string("\x08\x02\x00\x00\x00", 5);  // 8 bits a sample, RGB
  std::string rows;
  for (int64_t y = 0; y < height_; ++y) {
    rows += '\0';  // no filter
    rows.append(reinterpret_cast<const char*>(&rgb_[static_cast<std::size_t>(3 * y * width_)]),
                static_cast<std::size_t>(3 * width_));
  }
  std::string file = "\x89PNG\r\n\x1a\n";
  add_chunk(file, "IHDR", header);
  add_chunk(file, "IDAT", stored(rows));
  add_chunk(file, "IEND", "");
  return file;
}

std::string png_of(const std::vector<HeatMap>& maps) {
  int64_t width = 0, height = 1;
  for (const HeatMap& map : maps) {
    width += map_width(map);
    height = std::max(height, map_height(map));
  }
  Picture picture(std::max<int64_t>(width, 1), height);
  int64_t left = 0;
  for (const HeatMap& map : maps) {
    draw(picture, left, map);
    left += map_width(map);
  }
  return picture.png();
}

}  // namespace shadowkv::eval
