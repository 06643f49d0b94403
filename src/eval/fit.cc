#include "eval/fit.h"

#include <algorithm>

namespace shadowkv::eval {
namespace {

struct Point {
  int64_t size;
  int64_t tokens;
};

// Where the line through two points reaches the limit.
int64_t on_line(const Point& a, const Point& b, int64_t limit) {
  if (b.tokens <= a.tokens) return b.size;
  const double slope = static_cast<double>(b.size - a.size) / static_cast<double>(b.tokens - a.tokens);
  return a.size + static_cast<int64_t>(slope * static_cast<double>(limit - a.tokens));
}

}  // namespace

int64_t largest_fitting(SizeRange range, int64_t limit, const std::function<int64_t(int64_t)>& tokens_of) {
  if (range.most < range.least) return range.least - 1;
  Point fits{range.least, tokens_of(range.least)};
  if (fits.tokens > limit) return range.least - 1;
  Point before = fits;
  // Upwards along the line through the last two, until one is too long; where that takes long, by doubling.
  Point over{range.most + 1, 0};
  int64_t next = range.least + std::max<int64_t>(range.least, 8);
  for (int looks = 1; fits.size < range.most; ++looks) {
    const int64_t size = std::clamp(next, fits.size + 1, range.most);
    const Point at{size, tokens_of(size)};
    if (at.tokens > limit) {
      over = at;
      break;
    }
    before = fits;
    fits = at;
    next = looks < 4 ? on_line(before, fits, limit) + 1 : fits.size + (int64_t{1} << std::min(looks, 40));
  }
  // Between the two; every other time in the middle, so that a crooked course costs no more than bisection.
  for (bool middle = false; over.size <= range.most && over.size - fits.size > 1; middle = !middle) {
    const int64_t guess = middle ? (fits.size + over.size) / 2 : on_line(fits, over, limit);
    const int64_t size = std::clamp(guess, fits.size + 1, over.size - 1);
    const Point at{size, tokens_of(size)};
    (at.tokens <= limit ? fits : over) = at;
  }
  return fits.size;
}

}  // namespace shadowkv::eval
