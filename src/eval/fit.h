// How large a sample may become.
#pragma once

#include <cstdint>
#include <functional>

namespace shadowkv::eval {

struct SizeRange {
  int64_t least = 1;
  int64_t most = 1;
};

// The largest size in the range whose tokens are at most `limit`; least - 1 where there is none. `tokens_of`
// should grow with its argument; where it does so only nearly, the result still fits, and may be a little
// smaller than the largest. About log log of the range calls where the growth is even, twice its log at most.
[[nodiscard]] int64_t largest_fitting(SizeRange range, int64_t limit,
                                      const std::function<int64_t(int64_t size)>& tokens_of);

}  // namespace shadowkv::eval
