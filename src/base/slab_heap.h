// Cuts small allocations out of large slabs, so that thousands of blocks cost a few calls to a driver that
// takes its time for each. Best fit, lowest address first; neighbours are joined when given back. Never
// touches the memory itself. Safe to use from several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace shadowkv {

struct SlabSource {
  std::function<std::byte*(int64_t bytes)> map;  // nullptr when there is no memory
  std::function<void(std::byte* data, int64_t bytes)> unmap;
};

struct SlabHeapConfig {
  int64_t alignment = 256;        // of every allocation; slabs come at least as aligned
  int64_t granularity = 2 << 20;  // slabs are multiples of it
  int64_t first_slab = int64_t{64} << 20;
  int64_t largest_slab = int64_t{64} << 20;  // slabs grow with what is mapped, up to this
};

class SlabHeap {
 public:
  SlabHeap(const SlabHeapConfig& config, SlabSource source);
  ~SlabHeap();  // unmaps every slab
  SlabHeap(const SlabHeap&) = delete;
  SlabHeap& operator=(const SlabHeap&) = delete;

  // More than half of the largest slab gets a slab of its own, unmapped when it is freed; other slabs are
  // kept until memory runs out. nullptr when there is none. bytes must be positive.
  [[nodiscard]] std::byte* allocate(int64_t bytes);
  // data must come from allocate(bytes).
  void free(std::byte* data, int64_t bytes) noexcept;

  [[nodiscard]] int64_t mapped_bytes() const;

 private:
  [[nodiscard]] bool is_large(int64_t bytes) const { return bytes > config_.largest_slab / 2; }
  [[nodiscard]] std::byte* take(int64_t bytes);
  [[nodiscard]] std::byte* map(int64_t bytes);
  void unmap(std::byte* slab);
  bool unmap_empty_slabs();
  void insert(std::byte* data, int64_t bytes);
  void erase(std::map<std::byte*, int64_t>::iterator range);

  SlabHeapConfig config_;
  SlabSource source_;
  mutable std::mutex mutex_;
  int64_t mapped_ = 0;                              // everything below is guarded by mutex_
  std::map<std::byte*, int64_t> slabs_;             // address -> bytes
  std::map<std::byte*, int64_t> free_;              // address -> bytes; never across slabs
  std::set<std::pair<int64_t, std::byte*>> sizes_;  // the same ranges by size
};

}  // namespace shadowkv
