// A warp's walk over tiles of stored rows of one sequence and KV head: brought to shared memory some tiles
// ahead of their use, so that memory waits neither for arithmetic nor for the tables of blocks.
#pragma once

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

// Which tiles a warp walks: first, first + step, .. below `end`. Tile i is number i % block_tiles of block i
// / block_tiles: a tile never crosses blocks, the last of a block may be cut short.
struct TileWalk {
  int64_t row;
  int64_t head;
  uint32_t first, end, step;
  uint32_t block_tiles;

  // Where the tile `nth` steps on starts, of `bytes` bytes a tile; null beyond the end.
  __device__ const std::byte* at(const PagedView& view, uint32_t nth, uint32_t bytes) const {
    const uint32_t tile = first + nth * step, block = tile / block_tiles;
    if (tile >= end) return nullptr;
    const std::byte* start = view.table[row * view.seq_stride + head * view.head_stride + block];
    return start + view.offset + head * view.head_offset + (tile - block * block_tiles) * bytes;
  }
};

// Addresses of the tiles of a walk: kWarp of them at a time, one a lane, the next ones ahead of their use.
template <uint32_t kBytes>
class TileAddresses {
 public:
  __device__ void start(const PagedView& view, const TileWalk& walk) {
    now_ = walk.at(view, threadIdx.x % kWarp, kBytes);
    ahead_ = walk.at(view, threadIdx.x % kWarp + kWarp, kBytes);
  }
  // To be called before tile kWarp, 2 kWarp, .. is asked for.
  __device__ void advance(const PagedView& view, const TileWalk& walk, uint32_t nth) {
    now_ = ahead_;
    ahead_ = walk.at(view, nth + threadIdx.x % kWarp + kWarp, kBytes);
  }
  __device__ const std::byte* at(uint32_t nth) const {
    return reinterpret_cast<const std::byte*>(
        __shfl_sync(kAllLanes, reinterpret_cast<uint64_t>(now_), static_cast<int>(nth % kWarp)));
  }

 private:
  const std::byte* now_;
  const std::byte* ahead_;
};

// kBytes: of a tile, a multiple of 16 that starts at a multiple of 16. kMoreBytes: of the same tile in a
// second view, put behind it; 0 where there is none. kStages tiles are under way at once. kRowBytes: where
// not 0, a block's last tile may be cut short to rows of that many bytes; what lies behind it is then not
// read, and the memory stays as it was.
template <int kStages, int kBytes, int kMoreBytes, int kRowBytes = 0>
class TileStream {
 public:
  static constexpr int kStageBytes = kBytes + kMoreBytes;
  static constexpr int kRingBytes = kStages * kStageBytes;
  static_assert(kBytes % 16 == 0 && kMoreBytes % 16 == 0);

  // ring: kRingBytes of shared memory, this warp's alone. `more` is not used where kMoreBytes is 0.
  __device__ void start(const PagedView& view, const PagedView& more, const TileWalk& walk, std::byte* ring) {
    ring_ = shared_address(ring) + own_bytes();
    count_ = walk.first < walk.end ? (walk.end - walk.first + walk.step - 1) / walk.step : 0;
    if (count_ > 0) {
      tiles_.start(view, walk);
      if constexpr (kMoreBytes > 0) more_tiles_.start(more, walk);
    }
#pragma unroll
    for (int i = 0; i < kStages; ++i) send(view, more, walk);
  }
  // Waits for the next tile; it lies take() bytes behind the ring's start and is the caller's until
  // release().
  __device__ uint32_t take() const {
    wait_for_copies<kStages - 1>();
    __syncwarp();
    return next_;
  }
  // Sends for the tile kStages ahead, into the memory of the one taken.
  __device__ void release(const PagedView& view, const PagedView& more, const TileWalk& walk) {
    __syncwarp();
    send(view, more, walk);
  }

 private:
  __device__ static uint32_t own_bytes() { return threadIdx.x % kWarp * 16; }

  __device__ void send(const PagedView& view, const PagedView& more, const TileWalk& walk) {
    if (sent_ < count_) {
      if (sent_ % kWarp == 0 && sent_ > 0) {
        tiles_.advance(view, walk, sent_);
        if constexpr (kMoreBytes > 0) more_tiles_.advance(more, walk, sent_);
      }
      copy<kBytes>(ring_ + next_, tiles_.at(sent_), bytes_of(view, walk));
      if constexpr (kMoreBytes > 0)
        copy<kMoreBytes>(ring_ + next_ + kBytes, more_tiles_.at(sent_), kMoreBytes);
      ++sent_;
    }
    next_ = next_ + kStageBytes == kRingBytes ? 0 : next_ + kStageBytes;
    commit_copies();
  }
  __device__ uint32_t bytes_of(const PagedView& view, const TileWalk& walk) const {
    if constexpr (kRowBytes == 0) return kBytes;
    const uint32_t nth = (walk.first + sent_ * walk.step) % walk.block_tiles;
    return static_cast<uint32_t>(view.block_tokens) * kRowBytes - nth * kBytes;
  }
  template <int kCount>
  __device__ static void copy(uint32_t to, const std::byte* from, uint32_t count) {
    const std::byte* own = from + own_bytes();
#pragma unroll
    for (int first = 0; first < kCount; first += kWarp * 16) {
      const bool whole = first + kWarp * 16 <= kCount;
      if ((whole || first + own_bytes() < kCount) && (kRowBytes == 0 || first + own_bytes() < count))
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to + first), "l"(own + first)
                     : "memory");
    }
  }

  uint32_t ring_;  // plus this lane's 16 bytes
  TileAddresses<kBytes> tiles_;
  TileAddresses<kMoreBytes> more_tiles_;
  uint32_t count_, sent_ = 0;
  uint32_t next_ = 0;  // byte of the stage to take or send next
};

// A launch whose blocks of threads walk over `tiles` tiles each, `blocks` of them for every one of `walks`
// rows of all tiles. A few for every block that the device holds at once: those that end early leave nothing
// idle, and what comes before a block's first tile still happens seldom. most: tiles that a block may walk
// over, a multiple of `warps`.
struct WalkPlan {
  int64_t tiles;
  int64_t blocks;
};
inline WalkPlan plan_walks(int64_t tiles, int64_t walks, int64_t at_once, int64_t warps,
                           int64_t most = int64_t{1} << 31) {
  constexpr int64_t kWaves = 5;  // blocks for every one at once
  constexpr int64_t kLeast = 3;  // tiles of a warp
  const int64_t parts = ceil_div(kWaves * at_once, walks), part = ceil_div(tiles, parts);
  const int64_t each = round_up(part > kLeast * warps ? part : kLeast * warps, warps);
  const int64_t taken = each < most ? each : most;
  return {taken, ceil_div(tiles, taken)};
}

}  // namespace shadowkv::cuda
