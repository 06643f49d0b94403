#include <gtest/gtest.h>

#include "kernels/devices.h"
#include "kernels/kernels.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class CeilingOps : public ::testing::TestWithParam<TestDevice> {
 protected:
  std::unique_ptr<Device> device_ = GetParam().make();
  Queue& queue_ = device_->compute();
};

template <typename T>
std::vector<T> random_bits(int64_t count) {
  std::mt19937_64 generator(5);
  std::vector<T> numbers(static_cast<size_t>(count));
  for (T& number : numbers) number = static_cast<T>(generator());
  return numbers;
}

TEST_P(CeilingOps, ReadingFoldsEveryNumberOnce) {
  for (const int64_t count : {2, 62, 1000, 3'000'002}) {
    const std::vector<int64_t> numbers = random_bits<int64_t>(count);
    int64_t expected = 0;
    for (const int64_t number : numbers) expected ^= number;
    const Array from = upload(*device_, numbers, {count});
    const Array folded = allocate(*device_, DType::i64, {1});
    for (int run = 0; run < 2; ++run) {
      read_memory(queue_, {.from = from.view, .folded = folded.view});
      ASSERT_EQ(download<int64_t>(*device_, folded.view)[0], expected) << count;
    }
  }
}

TEST_P(CeilingOps, GatheredPiecesAreThoseNamedFromEitherMemory) {
  constexpr int64_t kPieces = 300;
  for (const int64_t bytes : {16, 48, 1024, 2048}) {
    const std::vector<uint8_t> numbers = random_bits<uint8_t>(kPieces * bytes);
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 1000; ++i) ids.push_back(i * 37 % static_cast<int32_t>(kPieces));
    const Array named = upload(*device_, ids, {1000});
    for (const Tier tier : {Tier::device, Tier::pinned_host}) {
      const Buffer memory = device_->allocate(tier, Purpose::values, kPieces * bytes);
      queue_.copy(memory.data(), numbers.data(), memory.bytes());
      const Array out = allocate(*device_, DType::u8, {1000, bytes});
      gather_pieces(queue_, {.from = TensorView(memory.data(), DType::u8, {kPieces, bytes}),
                             .ids = named.view,
                             .out = out.view});
      const std::vector<uint8_t> found = download<uint8_t>(*device_, out.view);
      for (size_t i = 0; i < ids.size(); ++i) {
        const auto from = numbers.begin() + ids[i] * bytes;
        const auto to = found.begin() + static_cast<std::ptrdiff_t>(i) * bytes;
        ASSERT_TRUE(std::equal(from, from + bytes, to)) << bytes << " " << i;
      }
    }
  }
}

TEST_P(CeilingOps, SizesThatVectorsDoNotFillAreRefused) {
  const Array numbers = allocate(*device_, DType::i64, {3});
  const Array folded = allocate(*device_, DType::i64, {1});
  EXPECT_THROW(read_memory(queue_, {.from = numbers.view, .folded = folded.view}), InvalidInput);
  const Array pieces = allocate(*device_, DType::u8, {2, 24});
  const Array ids = allocate(*device_, DType::i32, {2});
  EXPECT_THROW(gather_pieces(queue_, {.from = pieces.view, .ids = ids.view, .out = pieces.view}),
               InvalidInput);
}

INSTANTIATE_TEST_SUITE_P(Devices, CeilingOps, ::testing::ValuesIn(test_devices()), name_of_device);

}  // namespace
}  // namespace shadowkv::testing
