#include "eval/random.h"

#include <fmt/format.h>

namespace shadowkv::eval {

uint64_t hash_of(std::string_view text, uint64_t start) {
  uint64_t hash = start;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string hash_text(uint64_t hash) {
  return fmt::format("{:016x}", hash);
}

uint64_t Random::next() {
  state_ += 0x9e3779b97f4a7c15u;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

int64_t Random::below(int64_t n) {
  require(n >= 1, "a random number below {} was asked for; there is none", n);
  const auto range = static_cast<uint64_t>(n);
  const uint64_t whole = UINT64_MAX - UINT64_MAX % range;  // numbers from here on would favour small ones
  uint64_t drawn = next();
  while (drawn >= whole) drawn = next();
  return static_cast<int64_t>(drawn % range);
}

std::vector<int64_t> Random::sample(int64_t n, int64_t count) {
  require(count <= n, "{} different numbers below {} were asked for; there are fewer", count, n);
  std::vector<int64_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  for (int64_t i = 0; i < count; ++i) {
    std::swap(all[static_cast<std::size_t>(i)], all[static_cast<std::size_t>(i + below(n - i))]);
  }
  all.resize(static_cast<std::size_t>(count));
  return all;
}

std::string random_number(Random& random, int64_t digits) {
  int64_t least = 1;
  for (int64_t i = 1; i < digits; ++i) least *= 10;
  return fmt::format("{}", random.between(least, least * 10 - 1));
}

std::string random_uuid(Random& random) {
  const uint64_t high = (random.next() & 0xffffffffffff0fffu) | 0x4000u;             // version 4
  const uint64_t low = (random.next() & 0x3fffffffffffffffu) | 0x8000000000000000u;  // variant 10
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xffffu,
                     high & 0xffffu, low >> 48, low & 0xffffffffffffu);
}

std::string random_letters(Random& random, int64_t count, char first) {
  std::string letters;
  for (int64_t i = 0; i < count; ++i) letters += static_cast<char>(first + random.below(26));
  return letters;
}

}  // namespace shadowkv::eval
