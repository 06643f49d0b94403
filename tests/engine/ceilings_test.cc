#include "shadowkv/ceilings.h"

#include <gtest/gtest.h>

#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kMiB = 1 << 20;

void expect_rates(const Ceilings& ceilings) {
  EXPECT_GT(ceilings.device_read, 0);
  EXPECT_GT(ceilings.link_copy, 0);
  EXPECT_GT(ceilings.product, 0);
  int64_t last = 0;
  for (const GatherCeiling& one : ceilings.link_gather) {
    EXPECT_GT(one.piece_bytes, last);
    EXPECT_GT(one.bytes_per_s, 0);
    last = one.piece_bytes;
  }
  EXPECT_EQ(last, 2048);
}

TEST(Ceilings, AreMeasuredWithinAnyBudget) {
  for (const int64_t bytes : {kMiB / 4, 32 * kMiB}) {
    expect_rates(measure_ceilings({.threads = 2, .device_bytes = bytes, .host_bytes = bytes}));
    expect_rates(measure_ceilings({.threads = 2, .device_bytes = bytes, .host_bytes = 32 * kMiB}));
    expect_rates(measure_ceilings({.threads = 2, .device_bytes = 32 * kMiB, .host_bytes = bytes}));
  }
}

TEST(Ceilings, ADeviceThatIsNotThereIsRefused) {
  EXPECT_THROW((void)measure_ceilings({.device = "gpu"}), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::testing
