// This program's operator new and aligned_alloc, which can be told to fail. Link failing_new.cc into a test
// program of its own.
#pragma once

#include <cstdint>

namespace shadowkv::testing {

enum class Failing {
  once,      // the n-th allocation alone
  from_then  // the n-th and all that follow it
};

// Counts, and fails, what is allocated by any thread while it is in scope. One at a time.
class AllocationFailure {
 public:
  // nth: from 1; 0 fails none.
  AllocationFailure(int64_t nth, Failing failing);
  AllocationFailure(const AllocationFailure&) = delete;
  AllocationFailure& operator=(const AllocationFailure&) = delete;
  ~AllocationFailure();

  [[nodiscard]] static int64_t allocations();  // asked for since it began
};

// Allocations by operator new that were not given back yet.
[[nodiscard]] int64_t live_allocations();

}  // namespace shadowkv::testing
