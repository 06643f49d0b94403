#include "attention/segments.h"

#include <gtest/gtest.h>

#include "base/device.h"

namespace shadowkv {
namespace {

// A recorded step goes on reading tables by the strides of the day, as long as the device's addresses stay.
TEST(Segments, OtherStridesAreOtherAddresses) {
  const auto device = make_cpu_device({.threads = 1});
  AttentionConfig config;
  config.rank = 16;
  config.chunk_size = 4;
  config.segment_tokens = 512;
  config.segment_min_tokens = 128;
  AttentionShape shape;
  shape.layers = 1;
  shape.heads = 2;
  shape.kv_heads = 1;
  shape.head_dim = 16;
  shape.compute = DType::f32;
  Segments segments(shape, config, *device);
  int changes = 0;
  PagedView before;
  int64_t epoch = device->address_epoch();
  for (int64_t row = 0; row < 6; ++row) {
    const int64_t tokens = 500 * (row + 1);
    segments.begin(row, tokens, tokens);
    const PagedView now = segments.basis(device->compute(), 0);
    const bool moved = device->address_epoch() != epoch, differs = now.seq_stride != before.seq_stride;
    EXPECT_TRUE(moved || !differs) << "row " << row;
    EXPECT_NE(now.at(0, 0, 0), nullptr) << "after row " << row;
    changes += differs ? 1 : 0;
    before = now;
    epoch = device->address_epoch();
  }
  EXPECT_GE(changes, 5);
}

}  // namespace
}  // namespace shadowkv
