#include "base/check.h"

namespace shadowkv {

int64_t checked_mul(int64_t a, int64_t b, std::string_view what) {
  int64_t product = 0;
  require(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &product),
          "{} of {} x {} is not a size this program can hold", what, a, b);
  return product;
}

int64_t checked_add(int64_t a, int64_t b, std::string_view what) {
  int64_t sum = 0;
  require(a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, &sum),
          "{} of {} + {} is not a size this program can hold", what, a, b);
  return sum;
}

}  // namespace shadowkv
