// The slots' bookkeeping for one sequence and KV head by one block, decisions in shared memory, in the order
// that the CPU twin takes them. Bound: latency; a head has a few hundred slots and candidates.
#pragma once

#include "kernels/cuda/common.cuh"

namespace shadowkv::cuda {

// Exclusive prefix of a flag over the block's threads in order, and how many have it in `all`. counts: one a
// warp. All threads take part.
__device__ inline int rank_in_block(bool flag, int* counts, int& all) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const unsigned lanes = __ballot_sync(kAllLanes, flag);
  __syncthreads();  // the counts of the call before are not read any more
  if (lane == 0) counts[warp] = __popc(lanes);
  __syncthreads();
  int rank = __popc(lanes & ((1u << lane) - 1));
  all = 0;
  for (int w = 0; w < warps; ++w) {
    rank += w < warp ? counts[w] : 0;
    all += counts[w];
  }
  return rank;
}

// ---- finding ----------------------------------------------------------------------------------------------

inline constexpr int kMapSlots = 2048;  // of one round; twice as many entries, so that probing stays short
inline constexpr int kMapEntries = 2 * kMapSlots;

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

struct FindParams {
  DecodeBatch batch;
  SlotView slots;
  int candidates;   // M
  int32_t* chunks;  // [B, G, M]
  int32_t* found;   // [B, G, M]
  int2* missing;    // [B, G, M]

  struct Shared {
    SlotMap map;
    int counts[kWarp];
  };
  // What of a head's slots is known before its chunks are: asked for early, it is there when it is needed.
  struct Held {
    const int32_t* ids;
    int count;
    int own;  // the chunk that slot threadIdx.x holds

    __device__ int id(int slot) const { return slot == static_cast<int>(threadIdx.x) ? own : ids[slot]; }
  };

  explicit FindParams(const FindSlotsParams& p)
      : batch(p.batch),
        slots(p.slots),
        candidates(static_cast<int>(p.chunks.shape[2])),
        chunks(device_ptr<int32_t>(p.chunks)),
        found(device_ptr<int32_t>(p.found)),
        missing(device_ptr<int2>(p.missing)) {}

  // The chunks of one head, and how many.
  __device__ int32_t* choice(int64_t bg) const { return chunks + bg * candidates; }
  __device__ int choices() const { return candidates; }
  __device__ Held load(int64_t bg) const {
    const int64_t row = batch.rows[bg / slots.kv_heads];
    Held held{slots.chunks(row, bg % slots.kv_heads), slots.counts[row], -1};
    if (static_cast<int>(threadIdx.x) < held.count) held.own = held.ids[threadIdx.x];
    return held;
  }
  // wanted: the chunks of one head, in shared memory or in place.
  __device__ void run(int64_t bg, const Held& held, const int32_t* wanted, Shared& shared) const;
};

// Puts slots [first, first + kMapSlots) of a head into the map; returns the mask of its places.
__device__ inline uint32_t build_map(const FindParams::Held& held, int first, SlotMap& map) {
  const int some = min(held.count - first, kMapSlots);
  uint32_t entries = kWarp;
  while (static_cast<int>(entries) < 2 * some) entries *= 2;
  __syncthreads();  // an earlier map is not read any more
  for (uint32_t i = threadIdx.x; i < entries; i += blockDim.x) map.chunks[i] = map.slots[i] = -1;
  __syncthreads();
  for (int s = first + static_cast<int>(threadIdx.x); s < first + some; s += static_cast<int>(blockDim.x)) {
    const int chunk = held.id(s);
    if (chunk >= 0) map.insert(chunk, s, entries - 1);
  }
  __syncthreads();
  return entries - 1;
}

__device__ inline void FindParams::run(int64_t bg, const Held& held, const int32_t* wanted,
                                       Shared& shared) const {
  const int64_t base = bg * candidates;
  const int maps = max(1, ceil_div(held.count, kMapSlots));
  uint32_t mask = maps == 1 ? build_map(held, 0, shared.map) : 0;
  int listed = 0;
  for (int first = 0; first < candidates; first += static_cast<int>(blockDim.x)) {
    const int i = first + static_cast<int>(threadIdx.x);
    const int chunk = i < candidates ? wanted[i] : -1;
    int slot = -1;
    for (int m = 0; m < maps; ++m) {
      if (maps > 1) mask = build_map(held, m * kMapSlots, shared.map);
      if (chunk >= 0) slot = max(slot, shared.map.find(chunk, mask));
    }
    const bool is_missing = chunk >= 0 && slot < 0;
    int all = 0;
    const int rank = rank_in_block(is_missing, shared.counts, all);
    if (is_missing) missing[base + listed + rank] = make_int2(i, chunk);
    if (i < candidates) found[base + i] = slot;
    listed += all;
  }
  for (int i = listed + static_cast<int>(threadIdx.x); i < candidates; i += static_cast<int>(blockDim.x))
    missing[base + i] = make_int2(-1, -1);
}

// ---- assigning --------------------------------------------------------------------------------------------

inline constexpr int kFewSlots = 256;          // heads with as few are settled in shared memory
inline constexpr int kFewCandidates = 512;     // likewise
inline constexpr int kSortedSlots = 4096;      // heads with more look for one victim after another
inline constexpr int32_t kTaken = 0x7fffffff;  // stamp of a slot that this step has picked, until it ends
inline constexpr int64_t kNoSlot = 0x7fffffffffffffff;

// The slots of one KV head of one sequence, and what is picked for them.
struct SlotHead {
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

struct AssignParams {
  DecodeBatch batch;
  SlotView slots;
  const int32_t* chunks;  // [B, G, M]
  const int32_t* found;   // [B, G, M]
  int32_t* picked;        // [B, G, K], or null: entry i is candidate i
  int candidates;         // M
  int entries;            // K
  int32_t* assigned;      // [B, G, K]
  int32_t* source;        // [B, G, K]
  unsigned long long* counters;

  struct Few {
    int64_t orders[kFewSlots];
    int64_t victims[kFewSlots];
    int2 candidates[kFewCandidates];  // chunk and slot
    bool taken[kFewSlots];
  };
  struct Many {
    int64_t orders[kSortedSlots];
    int64_t reduced[kWarp];
  };
  struct Shared {
    union {
      Few few;
      Many many;
    };
    int counts[kWarp];
  };
  // What is known before the picks are: asked for early, it is there when it is needed.
  struct Held {
    SlotHead head;
    int own_id, own_stamp;  // of slot threadIdx.x
    int2 own_candidate;     // candidate threadIdx.x: chunk and slot
  };

  explicit AssignParams(const AssignSlotsParams& p)
      : batch(p.batch),
        slots(p.slots),
        chunks(device_ptr<int32_t>(p.chunks)),
        found(device_ptr<int32_t>(p.found)),
        picked(p.picked.empty() ? nullptr : device_ptr<int32_t>(p.picked)),
        candidates(static_cast<int>(p.chunks.shape[2])),
        entries(static_cast<int>(p.assigned.shape[2])),
        assigned(device_ptr<int32_t>(p.assigned)),
        source(device_ptr<int32_t>(p.source)),
        counters(reinterpret_cast<unsigned long long*>(p.counters)) {}

  // The picks of one head, where there are any, and how many.
  __device__ int32_t* choice(int64_t bg) const { return picked + bg * entries; }
  __device__ int choices() const { return entries; }
  __device__ Held load(int64_t bg) const;
  // wanted: the picks of one head, in shared memory or in place; null: all candidates.
  __device__ void run(int64_t bg, const Held& held, const int32_t* wanted, Shared& shared) const;

 private:
  __device__ int2 run_few(const Held& held, const int32_t* wanted, Few& few, int* counts) const;
  __device__ int2 run_many(const Held& held, int64_t bg, const int32_t* wanted, Many& many,
                           int* counts) const;
  __device__ int2 mark_hits(const SlotHead& head, int64_t bg, const int32_t* wanted) const;
};

__device__ inline AssignParams::Held AssignParams::load(int64_t bg) const {
  const int64_t b = bg / slots.kv_heads, g = bg % slots.kv_heads, row = batch.rows[b];
  const int own = static_cast<int>(threadIdx.x);
  Held held{{slots.chunks(row, g), slots.stamps(row, g), slots.counts[row], batch.tokens[b],
             chunks + bg * candidates, assigned + bg * entries, source + bg * entries},
            -1,
            -1,
            make_int2(-1, -1)};
  if (own < candidates) held.own_candidate = make_int2(held.head.chunks[own], found[bg * candidates + own]);
  if (own < held.head.slots) held.own_id = held.head.ids[own], held.own_stamp = held.head.stamps[own];
  return held;
}

// Writes hits, and misses as source without a slot. Returns chunks picked and hits among them.
__device__ inline int2 AssignParams::mark_hits(const SlotHead& head, int64_t bg,
                                               const int32_t* wanted) const {
  int2 all = make_int2(0, 0);
  for (int first = 0; first < entries; first += static_cast<int>(blockDim.x)) {
    const int i = first + static_cast<int>(threadIdx.x);
    const int c = i >= entries ? -1 : wanted == nullptr ? i : wanted[i];
    const bool is_picked = c >= 0 && c < candidates && head.chunks[c] >= 0;
    const int slot = is_picked ? found[bg * candidates + c] : -1;
    if (i < entries) {
      head.assigned[i] = slot;
      head.source[i] = is_picked && slot < 0 ? c : -1;
      if (slot >= 0) head.stamps[slot] = kTaken;
    }
    all.x += __syncthreads_count(is_picked ? 1 : 0);
    all.y += __syncthreads_count(slot >= 0 ? 1 : 0);
  }
  return all;
}

__device__ inline void sort_orders(int64_t* orders, int count) {
  for (int size = 2; size <= count; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < count / 2; i += blockDim.x) {
        const int low = 2 * i - i % step, high = low + step;
        const int64_t a = orders[low], b = orders[high];
        if ((a > b) != ((low & size) != 0)) orders[low] = b, orders[high] = a;
      }
    }
  }
  __syncthreads();
}

// Gives each miss the next victim in order, from orders sorted in shared memory.
__device__ inline void assign_sorted(AssignParams::Many& s, const SlotHead& head, int entries, int* counts) {
  int count = 2;
  while (count < head.slots) count *= 2;
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    s.orders[i] = i < head.slots ? head.order(i) : kNoSlot;
  sort_orders(s.orders, count);
  int before = 0;  // misses of earlier rounds
  for (int first = 0; first < entries; first += static_cast<int>(blockDim.x)) {
    const int i = first + static_cast<int>(threadIdx.x);
    const bool miss = i < entries && head.source[i] >= 0;
    int all = 0;
    const int nth = before + rank_in_block(miss, counts, all);
    before += all;
    if (miss && nth < head.slots && s.orders[nth] != kNoSlot) {
      head.take(i, s.orders[nth]);
    } else if (miss) {
      head.drop(i);  // more picks than slots
    }
  }
}

// The same for any number of slots: a search for every miss.
__device__ inline void assign_one_by_one(AssignParams::Many& s, const SlotHead& head, int entries) {
  int64_t last = -kNoSlot;
  for (int i = 0; i < entries; ++i) {
    if (head.source[i] < 0) continue;
    int64_t next = kNoSlot;
    for (int slot = threadIdx.x; slot < head.slots; slot += blockDim.x) {
      const int64_t order = head.order(slot);
      if (order > last && order < next) next = order;
    }
    struct Least {
      __device__ int64_t operator()(int64_t a, int64_t b) const { return a < b ? a : b; }
    };
    next = warp_reduce(next, Least());
    __syncthreads();  // nobody reads what is now written
    if (threadIdx.x % kWarp == 0) s.reduced[threadIdx.x / kWarp] = next;
    __syncthreads();
    for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) next = Least()(next, s.reduced[w]);
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

__device__ inline int2 AssignParams::run_many(const Held& held, int64_t bg, const int32_t* wanted, Many& many,
                                              int* counts) const {
  const SlotHead& head = held.head;
  const int2 picks = mark_hits(head, bg, wanted);
  if (picks.y < picks.x) {
    if (head.slots <= kSortedSlots) {
      assign_sorted(many, head, entries, counts);
    } else {
      assign_one_by_one(many, head, entries);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < entries; i += blockDim.x) {
    if (head.assigned[i] >= 0) head.stamps[head.assigned[i]] = head.now;
  }
  return picks;
}

// The same for few slots, candidates and entries, of each no more than the block has threads: entry and slot
// threadIdx.x are this thread's.
__device__ inline int2 AssignParams::run_few(const Held& held, const int32_t* wanted, Few& few,
                                             int* counts) const {
  const SlotHead& head = held.head;
  const int own = static_cast<int>(threadIdx.x);
  if (own < candidates) few.candidates[own] = held.own_candidate;
  if (own < head.slots) few.taken[own] = false;
  __syncthreads();
  const int c = own >= entries ? -1 : wanted == nullptr ? own : wanted[own];
  const int2 candidate = c >= 0 && c < candidates ? few.candidates[c] : make_int2(-1, -1);
  const bool is_picked = candidate.x >= 0;
  int slot = is_picked ? candidate.y : -1;
  if (slot >= 0) few.taken[slot] = true;
  int misses = 0;
  const bool is_miss = is_picked && slot < 0;
  const int nth = rank_in_block(is_miss, counts, misses);  // also: all slots that are taken are marked
  const int hits = __syncthreads_count(slot >= 0 ? 1 : 0);
  const int64_t age = held.own_id < 0 ? -1 : held.own_stamp;
  const int64_t order = own < head.slots && !few.taken[own] ? age * (int64_t{1} << 32) + own : kNoSlot;
  if (own < head.slots) few.orders[own] = order, few.victims[own] = kNoSlot;
  __syncthreads();
  if (order != kNoSlot) {
    int before = 0;
    for (int s = 0; s < head.slots; ++s) before += few.orders[s] < order ? 1 : 0;
    few.victims[before] = order;
  }
  __syncthreads();
  const bool gets = is_miss && nth < head.slots && few.victims[nth] != kNoSlot;  // else more picks than slots
  if (gets) {
    slot = static_cast<int>(few.victims[nth] & 0xffffffff);
    head.ids[slot] = candidate.x;
  }
  if (slot >= 0) head.stamps[slot] = head.now;
  if (own < entries) {
    head.assigned[own] = slot;
    head.source[own] = gets ? c : -1;
  }
  return make_int2(hits + misses, hits);
}

__device__ inline void AssignParams::run(int64_t bg, const Held& held, const int32_t* wanted,
                                         Shared& shared) const {
  const int threads = static_cast<int>(blockDim.x);
  const bool few = held.head.slots <= min(threads, kFewSlots) && entries <= threads &&
                   candidates <= min(threads, kFewCandidates);
  const int2 picks = few ? run_few(held, wanted, shared.few, shared.counts)
                         : run_many(held, bg, wanted, shared.many, shared.counts);
  if (threadIdx.x != 0 || picks.x == 0) return;
  atomicAdd(counters, static_cast<unsigned long long>(picks.x));
  atomicAdd(counters + 1, static_cast<unsigned long long>(picks.y));
}

}  // namespace shadowkv::cuda
