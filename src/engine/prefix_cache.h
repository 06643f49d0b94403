// Which prefixes of prompts are kept for requests to come, and which of them go when room is short: policy
// alone. It knows prefixes by keys and sizes; who carries out what it says touches the session.
//
// Prefixes share what they have in common, so they are a forest: each begins with so many tokens of its
// parent. One that has children stays as long as they do, on the device while one of them is there, and in
// memory while one of them is. What a running request shares with a prefix is counted with the request, which
// was let in as though nothing was kept.
//
// One may be in a file besides, or in a file alone. Files hold what their parents' do not, so that one that
// is in a file has parents that are, too.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "engine/prefix_key.h"
#include "engine/scheduler.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv {

using PrefixId = int64_t;

// The first tokens of a prefix.
struct PrefixPlace {
  PrefixId id = -1;  // none
  int64_t tokens = 0;
};

enum class PrefixTier : uint8_t { device, host, disk };

struct Prefix {
  SequenceId sequence = -1;  // none while it is on the disk alone
  int64_t tokens = 0;
  PrefixPlace parent = {};     // that it begins with
  std::vector<int64_t> parts;  // how it was read: one part after the other up to these, the last `tokens`
  PrefixTier tier = PrefixTier::device;
  int64_t file_bytes = 0;                                     // of its file; 0: there is none
  PrefixDigest name = {};                                     // of its file: the key of all of its tokens
  std::shared_ptr<const std::vector<int32_t>> ids = nullptr;  // where it may come to be in a file
  PrefixDigest tenant = {};                                   // whose it is
  bool is_pinned = false;                                     // goes after those that are not
  bool wants_file = false;                                    // which is to stay
  std::chrono::steady_clock::time_point used = std::chrono::steady_clock::now();
};

// What is to be done for room.
struct PrefixAction {
  enum class Kind : uint8_t { to_host, drop };  // drop: from memory
  Kind kind = Kind::drop;
  PrefixId id = 0;
};

class PrefixCache {
 public:
  // Bytes of a prefix beside those of its first `shared` tokens (Attention::prefix_bytes).
  using Sizing = std::function<Footprint(int64_t tokens, int64_t shared)>;

  // most_bytes: of all that nobody runs with, in both memories.
  PrefixCache(int64_t most_bytes, Sizing sizing) : most_bytes_(most_bytes), sizing_(std::move(sizing)) {}

  // The longest that is known of keys that ascend, of at most so many tokens.
  [[nodiscard]] std::optional<PrefixPlace> find(std::span<const PrefixKey> keys, int64_t most_tokens) const;
  [[nodiscard]] bool knows(const PrefixKey& key) const { return places_.contains(key.digest); }
  // Keeps one under those of the keys that are not known; keys that are, stay whose they were.
  PrefixId add(Prefix prefix, std::span<const PrefixKey> keys);
  void remove(PrefixId id);  // one without children
  void set_tier(PrefixId id, PrefixTier tier) { entries_.at(id).prefix.tier = tier; }
  void set_sequence(PrefixId id, SequenceId sequence) { entries_.at(id).prefix.sequence = sequence; }
  void set_ids(PrefixId id, std::shared_ptr<const std::vector<int32_t>> ids) {
    entries_.at(id).prefix.ids = std::move(ids);
  }
  // Used now, with all that it begins with.
  void touch(PrefixId id);

  [[nodiscard]] bool contains(PrefixId id) const { return entries_.contains(id); }
  [[nodiscard]] const Prefix& at(PrefixId id) const { return entries_.at(id).prefix; }
  // Of what it begins with, from the first, and itself; empty for one that is not there.
  [[nodiscard]] std::vector<PrefixId> path(PrefixId id) const;
  // Of one owner, the latest used first.
  [[nodiscard]] std::vector<PrefixId> of_tenant(const PrefixDigest& tenant) const;
  void pin(PrefixId id, bool is_pinned) { entries_.at(id).prefix.is_pinned = is_pinned; }
  void want_file(PrefixId id);                            // with all that it begins with
  [[nodiscard]] int64_t memory_bytes(PrefixId id) const;  // beside its parent
  // Those that begin with it, and so on; each after those that begin with it.
  [[nodiscard]] std::vector<PrefixId> descendants(PrefixId id) const;
  [[nodiscard]] std::vector<PrefixKey> keys(PrefixId id) const;  // that it is found by
  [[nodiscard]] int64_t in_memory() const;

  // What running requests share, from now on.
  void cover(std::span<const PrefixPlace> places);
  [[nodiscard]] Footprint bytes() const;  // of all but that
  // What to do so that all fits beside what is set aside for requests; nothing when it does. Nothing is done
  // yet. The least recently used go first: from the device to host memory while there is room for it.
  [[nodiscard]] std::optional<PrefixAction> next(const Footprint& set_aside, const Room& room) const;
  // The one that leaves memory first; nothing when there is none.
  [[nodiscard]] std::optional<PrefixId> first_to_go() const;
  // Whether as much again as is kept in memory would find no room.
  [[nodiscard]] bool is_filling(const Footprint& set_aside, const Room& room) const;

  // ---- files
  void set_file(PrefixId id, int64_t bytes);  // 0: it has none any more, nor do its descendants
  [[nodiscard]] int64_t file_bytes() const;   // of all of them
  [[nodiscard]] int64_t files() const;
  // The least recently used that has no file, of those whose parents have one; those that want one first.
  [[nodiscard]] std::optional<PrefixId> first_to_save() const;
  [[nodiscard]] bool wants_files() const;  // that are not there
  // Whose file goes first so that there is room for another's, of those that were used before it; for none:
  // of all.
  [[nodiscard]] std::optional<PrefixId> first_file_to_go(std::optional<PrefixId> other) const;

 private:
  struct Entry {
    Prefix prefix;
    std::vector<PrefixDigest> digests;
    int64_t children = 0;
    int64_t used = 0;
    int64_t covered = 0;  // tokens that running requests share
  };
  using Item = std::map<PrefixId, Entry>::value_type;
  [[nodiscard]] Footprint bytes_of(const Entry& entry) const;
  template <typename Which>
  [[nodiscard]] std::set<PrefixId> parents_of(const Which& which) const;
  [[nodiscard]] std::optional<PrefixId> first_to_leave_device() const;
  [[nodiscard]] bool fits_on_host(PrefixId id, const Footprint& all, const Room& room) const;

  int64_t most_bytes_;
  Sizing sizing_;
  std::map<PrefixId, Entry> entries_;
  std::map<PrefixDigest, PrefixPlace> places_;
  PrefixId next_id_ = 0;
  int64_t now_ = 0;
};

}  // namespace shadowkv
