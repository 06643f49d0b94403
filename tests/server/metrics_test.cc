#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>

namespace shadowkv {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, BucketsCountWhatIsWithinThem) {
  ServiceStatistics statistics;
  for (const double seconds : {0.001, 0.03, 0.03, 3.0, 9000.0}) statistics.first_token.add(seconds);
  const std::string text = metrics_text(statistics, "m");
  const std::string name = "shadowkv_time_to_first_token_seconds";
  EXPECT_THAT(text, HasSubstr(name + "_bucket{model_name=\"m\",le=\"0.01\"} 1\n"));
  EXPECT_THAT(text, HasSubstr(name + "_bucket{model_name=\"m\",le=\"0.05\"} 3\n"));
  EXPECT_THAT(text, HasSubstr(name + "_bucket{model_name=\"m\",le=\"2560\"} 4\n"));
  EXPECT_THAT(text, HasSubstr(name + "_bucket{model_name=\"m\",le=\"+Inf\"} 5\n"));
  EXPECT_THAT(text, HasSubstr(name + "_count{model_name=\"m\"} 5\n"));
}

TEST(Metrics, EveryNameHasHelpAndTypeOnce) {
  std::istringstream lines(metrics_text({}, "a \"model\"\n"));
  std::set<std::string> declared;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# TYPE ")) {
      EXPECT_TRUE(declared.insert(line.substr(7, line.find(' ', 7) - 7)).second) << line;
    } else if (!line.starts_with("#")) {
      std::string name = line.substr(0, line.find('{'));
      for (const char* end : {"_bucket", "_sum", "_count"}) {
        if (name.ends_with(end) && !declared.contains(name))
          name.resize(name.size() - std::string(end).size());
      }
      EXPECT_TRUE(declared.contains(name)) << line;
      EXPECT_THAT(line, HasSubstr(R"(model_name="a \"model\"\n")"));
    }
  }
  EXPECT_GT(declared.size(), 20);
}

}  // namespace
}  // namespace shadowkv
