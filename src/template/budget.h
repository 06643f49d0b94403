// What a template may spend. Templates come with models, from anybody: whatever they ask for is counted
// before it is done.
#pragma once

#include <cstdint>

namespace shadowkv::jinja {

struct Limits {
  int64_t steps = 4'000'000;          // nodes evaluated, items visited, bytes by the sixty-four
  int64_t bytes = int64_t{96} << 20;  // of all texts, lists and dicts made, counted when made
  int64_t depth = 600;                // of expressions, blocks and macros within each other while running
};

inline constexpr int64_t kMaxSourceBytes = int64_t{256} << 10;  // of a template's text
// Nesting of a template's own text, and of a value's lists and dicts: both are walked by recursion.
inline constexpr int64_t kMaxSyntaxDepth = 120;
inline constexpr int64_t kMaxValueDepth = 100;
inline constexpr int64_t kMaxRange = 100'000;  // numbers of one range

class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // All throw InvalidInput where a limit is passed.
  void step(int64_t count = 1);
  void take(int64_t bytes);  // before they are allocated

  // One level of nesting, while it lives.
  class Level {
   public:
    explicit Level(Budget& budget);
    ~Level() { --budget_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Budget& budget_;
  };

 private:
  Limits limits_;
  int64_t steps_ = 0, bytes_ = 0, depth_ = 0;
};

}  // namespace shadowkv::jinja
