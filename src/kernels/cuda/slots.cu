// The slots' bookkeeping: one block a sequence and KV head, decisions in shared memory, in the order that the
// CPU twin takes them. Bound: latency; a head has a few hundred slots and candidates. fill_keys copies, bound
// by the bytes of the misses' keys.
#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;

// ---- finding ----------------------------------------------------------------------------------------------

constexpr int kMapSlots = 2048;  // of one round; twice as many entries, so that probing stays short
constexpr int kMapEntries = 2 * kMapSlots;

// Slot of each chunk by open addressing. No chunk has more than one slot, save chunk 0, which stands for an
// empty slot: the last one counts.
struct SlotMap {
  int32_t chunks[kMapEntries];
  int32_t slots[kMapEntries];

  __device__ static uint32_t hash(int32_t chunk) { return static_cast<uint32_t>(chunk) * 0x9e3779b9u >> 7; }
  __device__ void insert(int32_t chunk, int32_t slot, uint32_t mask) {
    for (uint32_t at = hash(chunk) & mask;; at = (at + 1) & mask) {
      const int32_t held = atomicCAS(&chunks[at], -1, chunk);
      if (held != -1 && held != chunk) continue;
      atomicMax(&slots[at], slot);
      return;
    }
  }
  __device__ int32_t find(int32_t chunk, uint32_t mask) const {
    for (uint32_t at = hash(chunk) & mask;; at = (at + 1) & mask) {
      if (chunks[at] == chunk) return slots[at];
      if (chunks[at] == -1) return -1;
    }
  }
};

__global__ void __launch_bounds__(kThreads)
    find_slots_kernel(DecodeBatch batch, const int32_t* chunks, SlotView slots, int64_t candidates,
                      int32_t* found) {
  __shared__ SlotMap map;
  const int64_t b = blockIdx.x / slots.kv_heads, g = blockIdx.x % slots.kv_heads, row = batch.rows[b];
  const int32_t* ids = slots.chunks(row, g);
  const int count = slots.counts[row];
  chunks += blockIdx.x * candidates;
  found += blockIdx.x * candidates;
  for (int64_t i = threadIdx.x; i < candidates; i += kThreads) found[i] = -1;
  for (int first = 0; first < count; first += kMapSlots) {
    const int some = min(count - first, kMapSlots);
    uint32_t entries = kWarp;
    while (entries < 2u * static_cast<uint32_t>(some)) entries *= 2;
    __syncthreads();  // the last round's map is not read any more
    for (uint32_t i = threadIdx.x; i < entries; i += kThreads) map.chunks[i] = map.slots[i] = -1;
    __syncthreads();
    for (int s = threadIdx.x; s < some; s += kThreads) {
      if (ids[first + s] >= 0) map.insert(ids[first + s], first + s, entries - 1);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < candidates; i += kThreads) {  // the thread that wrote found[i] before
      const int32_t slot = chunks[i] < 0 ? -1 : map.find(chunks[i], entries - 1);
      if (slot >= 0) found[i] = slot;
    }
  }
}

// ---- assigning --------------------------------------------------------------------------------------------

constexpr int kSortedSlots = 4096;      // heads with more slots look for one victim after another
constexpr int32_t kTaken = 0x7fffffff;  // stamp of a slot that this step has picked, until it ends
constexpr int64_t kNoSlot = 0x7fffffffffffffff;

struct AssignParams {
  DecodeBatch batch;
  const int32_t* chunks;  // [B, G, M]
  const int32_t* found;   // [B, G, M]
  const int32_t* picked;  // [B, G, K], or null: entry i is candidate i
  SlotView slots;
  int candidates;
  int entries;  // K
  int32_t* assigned;
  int32_t* source;
  unsigned long long* counters;
};

// One KV head of one sequence.
struct Head {
  int32_t* ids;
  int32_t* stamps;
  int slots;
  int now;
  const int32_t* chunks;
  int32_t* assigned;
  int32_t* source;

  // Order in which slots are given away: empty ones by index, then by (stamp, index).
  __device__ int64_t order(int s) const {
    if (stamps[s] == kTaken) return kNoSlot;
    const int64_t age = ids[s] < 0 ? -1 : stamps[s];
    return age * (int64_t{1} << 32) + s;
  }
  __device__ void take(int entry, int64_t order) const {
    const int slot = static_cast<int>(order & 0xffffffff);
    assigned[entry] = slot;
    ids[slot] = chunks[source[entry]];
  }
  __device__ void drop(int entry) const { assigned[entry] = source[entry] = -1; }
};

struct AssignShared {
  int64_t orders[kSortedSlots];
  int misses[kThreads / kWarp];
  int64_t reduced[kThreads / kWarp];
  int counts[kThreads / kWarp];
};

// Writes hits, and misses as source without a slot. Returns this thread's chunks picked and hits among them.
__device__ int2 mark_hits(const AssignParams& p, const Head& head, int64_t bg) {
  int2 counts = make_int2(0, 0);
  for (int i = threadIdx.x; i < p.entries; i += kThreads) {
    const int c = p.picked == nullptr ? i : p.picked[bg * p.entries + i];
    head.drop(i);
    if (c < 0 || c >= p.candidates || head.chunks[c] < 0) continue;
    ++counts.x;
    const int slot = p.found[bg * p.candidates + c];
    if (slot < 0) {
      head.source[i] = c;
      continue;
    }
    ++counts.y;
    head.assigned[i] = slot;
    head.stamps[slot] = kTaken;
  }
  return counts;
}

__device__ void sort_orders(int64_t* orders, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < count / 2; i += kThreads) {
        const int low = 2 * i - i % step, high = low + step;
        const int64_t a = orders[low], b = orders[high];
        if ((a > b) != ((low & size) != 0)) orders[low] = b, orders[high] = a;
      }
    }
  }
  __syncthreads();
}

// Gives each miss the next victim in order, from orders sorted in shared memory.
__device__ void assign_sorted(AssignShared& s, const Head& head, int entries) {
  int count = 2;
  while (count < head.slots) count *= 2;
  for (int i = threadIdx.x; i < count; i += kThreads) s.orders[i] = i < head.slots ? head.order(i) : kNoSlot;
  sort_orders(s.orders, count);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int before = 0;  // misses of earlier rounds
  for (int first = 0; first < entries; first += kThreads) {
    const int i = first + threadIdx.x;
    const bool miss = i < entries && head.source[i] >= 0;
    const unsigned lanes = __ballot_sync(kAllLanes, miss);
    if (lane == 0) s.misses[warp] = __popc(lanes);
    __syncthreads();
    int nth = before + __popc(lanes & ((1u << lane) - 1));
    for (int w = 0; w < kThreads / kWarp; ++w) {
      nth += w < warp ? s.misses[w] : 0;
      before += s.misses[w];
    }
    if (miss && nth < count && s.orders[nth] != kNoSlot) {
      head.take(i, s.orders[nth]);
    } else if (miss) {
      head.drop(i);  // more picks than slots
    }
    __syncthreads();
  }
}

// The same for any number of slots: a search for every miss.
__device__ void assign_one_by_one(AssignShared& s, const Head& head, int entries) {
  int64_t last = -kNoSlot;
  for (int i = 0; i < entries; ++i) {
    if (head.source[i] < 0) continue;
    int64_t next = kNoSlot;
    for (int slot = threadIdx.x; slot < head.slots; slot += kThreads) {
      const int64_t order = head.order(slot);
      if (order > last && order < next) next = order;
    }
    struct Least {
      __device__ int64_t operator()(int64_t a, int64_t b) const { return a < b ? a : b; }
    };
    next = block_reduce<kThreads>(next, Least(), s.reduced);  // also: nobody reads what is now written
    if (threadIdx.x == 0 && next != kNoSlot) {
      head.take(i, next);
      head.stamps[next & 0xffffffff] = kTaken;
    } else if (threadIdx.x == 0) {
      head.drop(i);
    }
    last = next;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads) assign_slots_kernel(AssignParams p) {
  __shared__ AssignShared shared;
  const int64_t bg = blockIdx.x, b = bg / p.slots.kv_heads, g = bg % p.slots.kv_heads, row = p.batch.rows[b];
  const Head head{p.slots.chunks(row, g),   p.slots.stamps(row, g),       p.slots.counts[row],
                  p.batch.tokens[b],        p.chunks + bg * p.candidates, p.assigned + bg * p.entries,
                  p.source + bg * p.entries};
  const int2 counts = mark_hits(p, head, bg);
  const int picked = block_reduce<kThreads>(counts.x, Sum(), shared.counts);
  const int hits = block_reduce<kThreads>(counts.y, Sum(), shared.counts);
  __syncthreads();
  if (hits < picked) {
    if (head.slots <= kSortedSlots) {
      assign_sorted(shared, head, p.entries);
    } else {
      assign_one_by_one(shared, head, p.entries);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p.entries; i += kThreads) {
    if (head.assigned[i] >= 0) head.stamps[head.assigned[i]] = head.now;
  }
  if (threadIdx.x != 0 || picked == 0) return;
  atomicAdd(p.counters, static_cast<unsigned long long>(picked));
  atomicAdd(p.counters + 1, static_cast<unsigned long long>(hits));
}

// ---- filling ----------------------------------------------------------------------------------------------

// One warp an entry.
__global__ void __launch_bounds__(kThreads)
    fill_keys_kernel(DecodeBatch batch, const int32_t* assigned, const int32_t* source,
                     const std::byte* rebuilt, SlotView slots, int64_t entries, int64_t candidates) {
  const int64_t b = blockIdx.z, g = blockIdx.y, bg = b * slots.kv_heads + g;
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= entries) return;
  const int slot = assigned[bg * entries + i], from = source[bg * entries + i];
  if (slot < 0 || from < 0) return;
  const int64_t bytes = slots.slot_bytes();
  const std::byte* keys = rebuilt + (bg * candidates + from) * bytes;
  std::byte* to = slots.keys(batch.rows[b], g, slot);
  const int lane = threadIdx.x % kWarp;
  if (bytes % 16 == 0) {
    constexpr int kAhead = 4;
    for (int64_t base = lane; base < bytes / 16; base += kWarp * kAhead) {
      Bf16x8 held[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int64_t v = base + j * kWarp;
        if (v < bytes / 16) held[j] = Bf16x8::load(keys + 16 * v);
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int64_t v = base + j * kWarp;
        if (v < bytes / 16) held[j].store(to + 16 * v);
      }
    }
    return;
  }
  for (int64_t v = 2 * lane; v < bytes; v += 2 * kWarp) {
    *reinterpret_cast<uint16_t*>(to + v) = *reinterpret_cast<const uint16_t*>(keys + v);
  }
}

}  // namespace

void find_slots(Queue& queue, const FindSlotsParams& p) {
  constexpr const char* kOp = "find_slots";
  find_slots_kernel<<<grid_x(p.batch.size * p.slots.kv_heads, kOp), kThreads, 0, stream_of(queue)>>>(
      p.batch, device_ptr<int32_t>(p.chunks), p.slots, p.chunks.shape[2], device_ptr<int32_t>(p.found));
  check_launch(kOp);
}

void assign_slots(Queue& queue, const AssignSlotsParams& p) {
  constexpr const char* kOp = "assign_slots";
  const AssignParams params{p.batch,
                            device_ptr<int32_t>(p.chunks),
                            device_ptr<int32_t>(p.found),
                            p.picked.empty() ? nullptr : device_ptr<int32_t>(p.picked),
                            p.slots,
                            static_cast<int>(p.chunks.shape[2]),
                            static_cast<int>(p.assigned.shape[2]),
                            device_ptr<int32_t>(p.assigned),
                            device_ptr<int32_t>(p.source),
                            reinterpret_cast<unsigned long long*>(p.counters)};
  assign_slots_kernel<<<grid_x(p.batch.size * p.slots.kv_heads, kOp), kThreads, 0, stream_of(queue)>>>(
      params);
  check_launch(kOp);
}

void fill_keys(Queue& queue, const FillKeysParams& p) {
  constexpr const char* kOp = "fill_keys";
  const int64_t entries = p.assigned.shape[2];
  const dim3 grid(grid_x(ceil_div<int64_t>(entries, kThreads / kWarp), kOp), grid_yz(p.slots.kv_heads, kOp),
                  grid_yz(p.batch.size, kOp));
  fill_keys_kernel<<<grid, kThreads, 0, stream_of(queue)>>>(p.batch, device_ptr<int32_t>(p.assigned),
                                                            device_ptr<int32_t>(p.source), p.rebuilt.data,
                                                            p.slots, entries, p.rebuilt.shape[2]);
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
