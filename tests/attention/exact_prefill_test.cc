// The workspace of a prompt's layer.
#include "attention/exact_prefill.h"

#include <gtest/gtest.h>

#include "shadowkv/shadowkv.h"

namespace shadowkv::testing {
namespace {

TEST(ExactPrefills, AWorkspaceThatDidNotFitLeavesRoomForTheNext) {
  const auto device = make_cpu_device({.device_bytes = 1 << 20});
  AttentionShape shape{
      .layers = 1, .heads = 4, .kv_heads = 2, .head_dim = 8, .rope = {}, .compute = DType::f32};
  shape.rope.rotary_dim = 8;
  ExactPrefill prefill(shape, *device);
  prefill.begin(64);
  EXPECT_THROW(prefill.begin(1 << 20), OutOfMemory);
  prefill.begin(32);  // of another prompt, after the large one was given up
  const RawLayer layer = prefill.past(32);
  EXPECT_NE(layer.v.data, nullptr);
  EXPECT_EQ(layer.positions[31], 31);
  EXPECT_THROW((void)prefill.past(33), InvalidInput);
  prefill.begin(20);
  EXPECT_EQ(prefill.past(32).positions, layer.positions) << "a smaller prompt takes what is there";
  prefill.end();
  EXPECT_EQ(device->memory().of(Tier::device, Purpose::prompts), 0);
}

}  // namespace
}  // namespace shadowkv::testing
