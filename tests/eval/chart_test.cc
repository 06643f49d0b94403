#include "eval/chart.h"

#include <gmock/gmock.h>

#include <limits>

namespace shadowkv::eval {
namespace {

using testing::HasSubstr;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

TEST(Chart, HeatRunsFromRedOverAmberToGreen) {
  EXPECT_EQ(heat_colour(0).red, 0xf0);
  EXPECT_EQ(heat_colour(0.5).green, 0xb8);
  EXPECT_EQ(heat_colour(1).blue, 0x9f);
  EXPECT_EQ(heat_colour(7).blue, 0x9f);
  EXPECT_EQ(heat_colour(kNone).red, heat_colour(kNone).green);
}

TEST(Chart, LengthsAreShort) {
  EXPECT_EQ(length_label(4096), "4K");
  EXPECT_EQ(length_label(131072), "128K");
  EXPECT_EQ(length_label(1 << 20), "1M");
  EXPECT_EQ(length_label(5000), "5000");
}

TEST(Chart, LinesLeaveOutWhatIsNotThere) {
  const std::string svg =
      svg_of(LineChart{"a < b", {"4K", "8K"}, {{"full", {100, kNone}, {{90, 100}, {0, 100}}}}});
  EXPECT_THAT(svg, HasSubstr("a &lt; b"));
  EXPECT_THAT(svg, HasSubstr("full: 100.0"));
  EXPECT_THAT(svg, testing::Not(HasSubstr("nan")));
  EXPECT_EQ(svg.find("<circle"), svg.rfind("<circle"));
}

TEST(Chart, HeatMapPrintsMeansInItsCells) {
  const std::string svg =
      svg_of(HeatMap{"needle", "5 draws", {"4K", "8K"}, {"0 %", "100 %"}, {1, 0.4, kNone, 0}});
  EXPECT_THAT(svg, HasSubstr(">0.4<"));
  EXPECT_THAT(svg, HasSubstr("#0cd79f"));
  EXPECT_THAT(svg, HasSubstr("5 draws"));
  EXPECT_THAT(svg, testing::Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace shadowkv::eval
