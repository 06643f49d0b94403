#include <algorithm>
#include <atomic>
#include <bit>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/choose.h"
#include "kernels/cpu/storage.h"
#include "kernels/synthetic_math.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

// Slot of each chunk that one KV head's slots hold, by open addressing.
class SlotMap {
 public:
  SlotMap(const int32_t* chunks, int64_t slots)
      : mask_(std::bit_ceil(static_cast<uint64_t>(2 * slots + 2)) - 1), entries_(mask_ + 1, Entry{-1, -1}) {
    for (int64_t s = 0; s < slots; ++s) {
      if (chunks[s] >= 0) *entry_of(chunks[s]) = {chunks[s], static_cast<int32_t>(s)};
    }
  }

  [[nodiscard]] int32_t find(int32_t chunk) { return entry_of(chunk)->slot; }

 private:
  struct Entry {
    int32_t chunk, slot;
  };

  // The chunk's entry, or the free one where it belongs.
  Entry* entry_of(int32_t chunk) {
    uint64_t at = (static_cast<uint64_t>(chunk) * 0x9e3779b97f4a7c15u) >> 32 & mask_;
    while (entries_[at].chunk >= 0 && entries_[at].chunk != chunk) at = (at + 1) & mask_;
    return &entries_[at];
  }

  uint64_t mask_;
  std::vector<Entry> entries_;
};

// Candidate that entry `i` of one KV head's picks stands for, or -1.
int64_t candidate_of(const AssignSlotsParams& p, int64_t bg, int64_t i) {
  const int64_t candidates = p.chunks.shape[2], entries = p.assigned.shape[2];
  const int64_t c = p.picked.empty() ? i : p.picked.as<int32_t>()[bg * entries + i];
  require(c < candidates, "assign_slots: candidate {} was picked, but there are {}", c, candidates);
  return c >= 0 && p.chunks.as<int32_t>()[bg * candidates + c] >= 0 ? c : -1;
}

// The `count` slots to give away first: empty ones by index, then by (stamp, index), never one that is taken.
std::vector<int32_t> victims(const int32_t* ids, const int32_t* stamps, const std::vector<bool>& taken,
                             int64_t count) {
  constexpr int64_t kOrder = int64_t{1} << 32;
  std::vector<int64_t> orders;
  orders.reserve(taken.size());
  for (std::size_t s = 0; s < taken.size(); ++s) {
    if (taken[s]) continue;
    const int64_t age = ids[s] < 0 ? -1 : stamps[s];
    orders.push_back(age * kOrder + static_cast<int64_t>(s));
  }
  std::nth_element(orders.begin(), orders.begin() + count, orders.end());
  std::sort(orders.begin(), orders.begin() + count);
  std::vector<int32_t> slots;
  slots.reserve(static_cast<std::size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    slots.push_back(static_cast<int32_t>(orders[static_cast<std::size_t>(i)] & (kOrder - 1)));
  }
  return slots;
}

// One KV head's assignment; adds to picked and hits.
class Assignment {
 public:
  Assignment(const AssignSlotsParams& p, int64_t bg)
      : p_(p),
        bg_(bg),
        row_(p.batch.rows[bg / p.slots.kv_heads]),
        head_(bg % p.slots.kv_heads),
        now_(p.batch.tokens[bg / p.slots.kv_heads]),
        ids_(p.slots.chunks(row_, head_)),
        stamps_(p.slots.stamps(row_, head_)),
        taken_(static_cast<std::size_t>(p.slots.counts[row_])) {}

  void run() {
    const int64_t entries = p_.assigned.shape[2];
    assigned_ = p_.assigned.as<int32_t>() + bg_ * entries;
    source_ = p_.source.as<int32_t>() + bg_ * entries;
    for (int64_t i = 0; i < entries; ++i) mark_hit(i);
    require(picked <= p_.slots.counts[row_],
            "assign_slots: {} chunks were picked for {} slots of sequence row {}", picked,
            p_.slots.counts[row_], row_);
    const std::vector<int32_t> free = victims(ids_, stamps_, taken_, picked - hits);
    std::size_t next = 0;
    for (int64_t i = 0; i < entries; ++i) {
      if (source_[i] >= 0) take(i, free[next++]);
    }
    for (std::size_t s = 0; s < taken_.size(); ++s) {
      if (taken_[s]) stamps_[s] = now_;
    }
  }

  int64_t picked = 0;
  int64_t hits = 0;

 private:
  void mark_hit(int64_t i) {
    const int64_t candidate = candidate_of(p_, bg_, i);
    assigned_[i] = source_[i] = -1;
    if (candidate < 0) return;
    ++picked;
    const int32_t slot = p_.found.as<int32_t>()[bg_ * p_.chunks.shape[2] + candidate];
    if (slot < 0) {
      source_[i] = static_cast<int32_t>(candidate);
      return;
    }
    ++hits;
    assigned_[i] = slot;
    taken_.at(static_cast<std::size_t>(slot)) = true;
  }

  void take(int64_t i, int32_t slot) {
    assigned_[i] = slot;
    ids_[slot] = p_.chunks.as<int32_t>()[bg_ * p_.chunks.shape[2] + source_[i]];
    taken_[static_cast<std::size_t>(slot)] = true;
  }

  const AssignSlotsParams& p_;
  int64_t bg_, row_, head_;
  int32_t now_;
  int32_t* ids_;
  int32_t* stamps_;
  int32_t* assigned_ = nullptr;
  int32_t* source_ = nullptr;
  std::vector<bool> taken_;  // slots that this step has picked
};

// Lists the candidates of one KV head that no slot holds; there is room for (candidate, chunk) of all.
void list_missing(const int32_t* chunks, const int32_t* found, int64_t candidates, int32_t* missing) {
  int64_t count = 0;
  for (int64_t i = 0; i < candidates; ++i) {
    if (chunks[i] < 0 || found[i] >= 0) continue;
    missing[2 * count] = static_cast<int32_t>(i);
    missing[2 * count + 1] = chunks[i];
    ++count;
  }
  std::fill(missing + 2 * count, missing + 2 * candidates, -1);
}

// Of one KV head of a sequence, as all that follow.
void find_of(const FindSlotsParams& p, int64_t bg) {
  const int64_t heads = p.slots.kv_heads, candidates = p.chunks.shape[2], row = p.batch.rows[bg / heads];
  SlotMap map(p.slots.chunks(row, bg % heads), p.slots.counts[row]);
  for (int64_t i = bg * candidates; i < (bg + 1) * candidates; ++i) {
    const int32_t chunk = p.chunks.as<int32_t>()[i];
    p.found.as<int32_t>()[i] = chunk < 0 ? -1 : map.find(chunk);
  }
  const int64_t first = bg * candidates;
  list_missing(p.chunks.as<int32_t>() + first, p.found.as<int32_t>() + first, candidates,
               p.missing.as<int32_t>() + 2 * first);
}

void assign_of(const AssignSlotsParams& p, int64_t bg) {
  Assignment assignment(p, bg);
  assignment.run();
  std::atomic_ref(p.counters[0]).fetch_add(assignment.picked, std::memory_order_relaxed);
  std::atomic_ref(p.counters[1]).fetch_add(assignment.hits, std::memory_order_relaxed);
}

// Nanoseconds, about.
int64_t finding_cost(const FindSlotsParams& p) {
  return 2000 + 20 * p.chunks.shape[2];
}
int64_t assigning_cost(const AssignSlotsParams& p) {
  return 2000 + 60 * p.assigned.shape[2];
}

}  // namespace

void find_slots(Queue& queue, const FindSlotsParams& p) {
  for_pieces(queue, p.batch.size * p.slots.kv_heads, finding_cost(p), [&](int64_t bg) { find_of(p, bg); });
}

void assign_slots(Queue& queue, const AssignSlotsParams& p) {
  for_pieces(queue, p.batch.size * p.slots.kv_heads, assigning_cost(p),
             [&](int64_t bg) { assign_of(p, bg); });
}

void fill_keys(Queue& queue, const FillKeysParams& p) {
  const int64_t heads = p.slots.kv_heads, entries = p.assigned.shape[2], bytes = p.slots.slot_bytes();
  for_pieces(queue, p.batch.size * heads, entries * bytes / 16, [&](int64_t bg) {
    const int64_t row = p.batch.rows[bg / heads];
    const std::byte* rebuilt = p.rebuilt.data + bg * p.rebuilt.shape[2] * bytes;
    for (int64_t i = bg * entries; i < (bg + 1) * entries; ++i) {
      const int64_t slot = p.assigned.as<int32_t>()[i], source = p.source.as<int32_t>()[i];
      if (slot < 0 || source < 0) continue;
      std::memcpy(p.slots.keys(row, bg % heads, slot), rebuilt + source * bytes,
                  static_cast<std::size_t>(bytes));
    }
  });
}

void choose_candidates(Queue& queue, const ChooseCandidatesParams& p) {
  const ChooseGroupsParams choosing = p.choose();
  const FindSlotsParams finding = p.find();
  const int64_t candidates = p.candidates.shape[2];
  const Forcing forcing(p.forced, candidates);
  const int64_t cost = choosing_cost(choosing) + finding_cost(finding);
  for_pieces(queue, p.batch.size * p.slots.kv_heads, cost, [&](int64_t bg) {
    choose_group(choosing, bg);
    if (forcing.on) {
      const ForcedChoice forced = forcing.of(p.batch, p.slots, static_cast<int32_t>(candidates), bg);
      for (int64_t i = 0; i < candidates; ++i) {
        p.candidates.as<int32_t>()[bg * candidates + i] = forced.chunk(static_cast<int32_t>(i));
      }
    }
    find_of(finding, bg);
  });
}

void pick_candidates(Queue& queue, const PickCandidatesParams& p) {
  const ChooseGroupsParams choosing = p.choose();
  const AssignSlotsParams& assign = p.assign;
  const int64_t candidates = assign.chunks.shape[2], picks = assign.picked.shape[2];
  const Forcing forcing(p.forced, candidates);
  const int64_t cost = choosing_cost(choosing) + assigning_cost(assign);
  for_pieces(queue, assign.batch.size * assign.slots.kv_heads, cost, [&](int64_t bg) {
    choose_group(choosing, bg);
    if (forcing.on) {
      const ForcedChoice forced =
          forcing.of(assign.batch, assign.slots, static_cast<int32_t>(candidates), bg);
      for (int64_t i = 0; i < picks; ++i)
        assign.picked.as<int32_t>()[bg * picks + i] = forced.pick(static_cast<int32_t>(i));
    }
    assign_of(assign, bg);
  });
}

}  // namespace shadowkv::cpu
