#include "engine/failing_new.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace shadowkv::testing {
namespace {

std::atomic<int64_t> live{0};
std::atomic<int64_t> asked{0};
std::atomic<int64_t> first_to_fail{0};  // 0: none
std::atomic<int64_t> last_to_fail{0};

bool must_fail() {
  const int64_t number = ++asked;
  return first_to_fail > 0 && number >= first_to_fail && number <= last_to_fail;
}

void* aligned(std::size_t size, std::size_t alignment) noexcept {
  void* memory = nullptr;
  if (must_fail() || posix_memalign(&memory, alignment, size) != 0) return nullptr;
  return memory;
}

void* give(std::size_t size, std::size_t alignment) noexcept {
  void* memory = aligned(size + 1, alignment);  // never 0
  if (memory) ++live;
  return memory;
}

void* give_or_throw(std::size_t size, std::size_t alignment) {
  void* memory = give(size, alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}

void take_back(void* memory) noexcept {
  if (memory) --live;
  std::free(memory);
}

constexpr std::size_t kDefault = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

}  // namespace

AllocationFailure::AllocationFailure(int64_t nth, Failing failing) {
  asked = 0;
  last_to_fail = failing == Failing::once ? nth : INT64_MAX;
  first_to_fail = nth;
}

AllocationFailure::~AllocationFailure() {
  first_to_fail = 0;
}

int64_t AllocationFailure::allocations() {
  return asked;
}

int64_t live_allocations() {
  return live;
}

}  // namespace shadowkv::testing

using shadowkv::testing::aligned;
using shadowkv::testing::give;
using shadowkv::testing::give_or_throw;
using shadowkv::testing::kDefault;
using shadowkv::testing::take_back;

// What a CPU's tiers are made of.
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return aligned(size, alignment);
}
void* operator new(std::size_t size) {
  return give_or_throw(size, kDefault);
}
void* operator new[](std::size_t size) {
  return give_or_throw(size, kDefault);
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return give(size, kDefault);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return give(size, kDefault);
}
void* operator new(std::size_t size, std::align_val_t at) {
  return give_or_throw(size, static_cast<std::size_t>(at));
}
void* operator new[](std::size_t size, std::align_val_t at) {
  return give_or_throw(size, static_cast<std::size_t>(at));
}
void operator delete(void* memory) noexcept {
  take_back(memory);
}
void operator delete[](void* memory) noexcept {
  take_back(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  take_back(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  take_back(memory);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
  take_back(memory);
}
void operator delete[](void* memory, const std::nothrow_t&) noexcept {
  take_back(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  take_back(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
  take_back(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  take_back(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  take_back(memory);
}
