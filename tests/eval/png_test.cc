#include "eval/png.h"

#include <gmock/gmock.h>

#include "shadowkv/error.h"

namespace shadowkv::eval {
namespace {

uint32_t u32(const std::string& bytes, std::size_t at) {
  uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes.at(at + i));
  return value;
}

TEST(Png, SmallestPictureIsTheSpecifiedBytes) {
  const std::string file = Picture(1, 1).png();
  EXPECT_EQ(file.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(file.substr(12, 4), "IHDR");
  EXPECT_EQ(u32(file, 16), 1u);
  EXPECT_EQ(u32(file, 20), 1u);
  // Sums that other programs give for a white RGB pixel.
  EXPECT_EQ(u32(file, 29), 0x907753deu);
  EXPECT_EQ(file.substr(file.size() - 12), std::string("\0\0\0\0IEND\xae\x42\x60\x82", 12));
  const std::size_t adler = file.size() - 12 - 8;
  EXPECT_EQ(u32(file, adler), 0x05fe02feu);
}

TEST(Png, RowsOfLargePicturesAreStoredInSeveralBlocks) {
  const std::string file = Picture(300, 200).png();
  const std::size_t raw = 200 * (1 + 3 * 300);
  const std::size_t blocks = (raw + 65534) / 65535;
  EXPECT_EQ(file.size(), 8 + 25 + 12 + 2 + raw + 5 * blocks + 4 + 12);
}

TEST(Png, FillsKeepToThePictureAndLettersToTheirPlace) {
  Picture picture(20, 10);
  picture.fill(-5, -5, 8, 8, {1, 2, 3});
  picture.fill(18, 8, 100, 100, {4, 5, 6});
  EXPECT_EQ(picture.at(2, 2).green, 2);
  EXPECT_EQ(picture.at(3, 3).green, 255);
  EXPECT_EQ(picture.at(19, 9).blue, 6);
  Picture text(12, 5);
  text.write(0, 0, "1k", 1);  // 026227 and 055655
  EXPECT_EQ(text.at(1, 0).red, 0);
  EXPECT_EQ(text.at(0, 0).red, 255);
  EXPECT_EQ(text.at(4, 0).red, 0);
  EXPECT_EQ(text.at(5, 0).red, 255);
  EXPECT_EQ(Picture::text_width("1k", 1), 8);
  EXPECT_THROW(Picture(0, 5), InvalidInput);
}

TEST(Png, HeatMapsStandSideBySide) {
  const HeatMap map{"full", "1 draw", {"4K"}, {"0 %"}, {1}};
  const std::string one = png_of({map}), two = png_of({map, map});
  EXPECT_EQ(u32(two, 16), 2 * u32(one, 16));
  EXPECT_EQ(u32(two, 20), u32(one, 20));
}

}  // namespace
}  // namespace shadowkv::eval
