// Blocks of tokens of many sequences, found through one table of block addresses (PagedView). A block covers
// a fixed number of tokens of one list of one sequence; a store has one list a sequence (a block then holds
// all layers and heads) or one for every layer and KV head (values, whose runs lie by head). Blocks are
// allocated as a sequence grows, in either memory tier, and reference-counted, so that sequences can share
// them.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/device.h"
#include "base/memory_piece.h"
#include "cache/device_array.h"
#include "cache/placement.h"
#include "kernels/views.h"

namespace shadowkv {

struct PagedStoreConfig {
  int64_t block_tokens = 0;
  int64_t token_bytes = 0;  // bytes a token takes in one list
  int64_t lists = 1;        // block lists a sequence has
  int64_t growth_tokens =
      0;  // a list's last block may be shorter, in steps of this; 0: blocks are always whole
  Purpose purpose = Purpose::keys_values;
  bool prefer_device = true;   // false: host tier only; true with spill_to_host: device while it has room
  bool spill_to_host = false;  // blocks also move to the host when others need the device, and back
  // That move at least when an allocation finds no room: little at a time would stop everything for each.
  int64_t least_spill_bytes = 256 << 20;
  // That move at most between two steps: 1.2 ms of a link of 55 GB/s.
  int64_t most_moved_bytes = 64 << 20;
};

class PagedStore {
 public:
  PagedStore(Device& device, const PagedStoreConfig& config);
  ~PagedStore();
  PagedStore(const PagedStore&) = delete;
  PagedStore& operator=(const PagedStore&) = delete;

  // Makes room for `tokens` tokens of sequence row `row`. Throws OutOfMemory and then holds what it held
  // before.
  void reserve(int64_t row, int64_t tokens);
  void release(int64_t row);
  // An empty row `to` comes to hold the first `tokens` tokens of another, which may hold more. Whole blocks
  // are from then on both rows' and are written no more; the one that is not whole is copied, in the compute
  // queue's order. Throws OutOfMemory and then changes nothing.
  void share(int64_t from, int64_t to, int64_t tokens);
  // Brings a row's blocks to one tier; from the host they return by themselves once a step has used the row.
  // Blocks that are others' too move for all of them; to the host they go with the last that leaves. Throws
  // OutOfMemory, and then they are where they were.
  void move(int64_t row, Tier to);
  void upload_tables(Queue& queue) { table_.upload(queue); }

  // ---- placement (cache/placement.h), of stores that spill to the host
  // A step used these rows: recently used rows leave the device last and return first. Then moves what suits,
  // a bounded piece, in the compute queue's order: work queued before it reads the old places, work that is
  // queued after the tables' next upload the new ones.
  void end_step(std::span<const int64_t> rows);
  // Device bytes that end_step() leaves to others, moving blocks down where they are not free; 0 at first.
  void keep_free(int64_t bytes) { keep_free_ = bytes; }
  // Bytes that could move to the host.
  [[nodiscard]] int64_t movable_bytes() const;
  // Moves blocks to the host until that many device bytes are free, or nothing is left to move or no room for
  // it; returns the bytes moved. Waits for the whole device before and after.
  int64_t release_device(int64_t bytes);

  [[nodiscard]] const PagedStoreConfig& config() const { return config_; }
  [[nodiscard]] int64_t bytes_for(int64_t tokens) const;  // what reserve(row, tokens) holds for an empty row
  [[nodiscard]] int64_t held_bytes(int64_t row, Tier tier) const;  // shared blocks too
  [[nodiscard]] int64_t held_bytes(Tier tier) const;               // of all rows, shared blocks once
  [[nodiscard]] int64_t shared_bytes(int64_t tokens) const;        // that share(from, to, tokens) copies not
  [[nodiscard]] int64_t capacity_tokens(int64_t row) const;        // tokens there is room for
  // Of tokens [first, end) of a row, in lists [first_list, first_list + lists), what lies in a tier.
  struct Part {
    int64_t row = 0;
    int64_t first_list = 0;
    int64_t lists = 0;
    int64_t first = 0;
    int64_t end = 0;
  };
  [[nodiscard]] int64_t bytes_of(const Part& part, Tier tier) const;
  // Bytes that were copied from one tier to the other so far, by where they went.
  [[nodiscard]] int64_t moved_bytes(Tier to) const { return moved_[static_cast<std::size_t>(to)]; }

  // The memory of the first `tokens` tokens of a row, for which there is room, in an order that depends on
  // them alone. arrays: bytes of a token in each of the arrays [tokens of a block, bytes] that a block of one
  // list is made of, in order.
  void add_memory(int64_t row, int64_t tokens, std::span<const int64_t> arrays,
                  std::vector<MemoryPiece>& to) const;
  // Bytes of it.
  [[nodiscard]] int64_t memory_bytes(int64_t tokens) const {
    return checked_mul(tokens, config_.token_bytes * config_.lists, "paged storage");
  }

  // A view of the blocks of list `first_list` onward (head h reads list first_list + h when by_head), up to
  // date in the queue's order; offset, head_offset, token_bytes and dtype are the caller's.
  [[nodiscard]] PagedView view(Queue& queue, int64_t first_list, bool by_head);

 private:
  using Block = std::shared_ptr<Buffer>;  // moves in place, so that all who share it see where it is
  class Moving;
  struct Row {
    std::vector<std::vector<Block>> lists;  // [lists][blocks]
    int64_t capacity = 0;                   // tokens
    std::array<int64_t, kTiers> held{};     // bytes of the blocks, by tier
    int64_t last_used = 0;                  // step
    int64_t family = 0;                     // of rows that may have blocks in common; 0: none
  };

  [[nodiscard]] int64_t capacity_for(int64_t tokens) const;
  [[nodiscard]] Block allocate(int64_t bytes);
  [[nodiscard]] bool moves() const { return config_.prefer_device && config_.spill_to_host; }
  [[nodiscard]] std::vector<PlacedRow> placed() const;
  [[nodiscard]] PlacementRoom room() const;
  [[nodiscard]] std::optional<Buffer> try_allocate(Tier tier, int64_t bytes);
  int64_t relieve(int64_t bytes);
  int64_t move_blocks(const PlacedMove& move);
  void copy(const Buffer& from, const Buffer& to, int64_t bytes);
  void grow_list(std::vector<Block>& list, int64_t capacity);
  void write_table(int64_t row);   // after every change of the row's blocks
  void write_tables(int64_t row);  // and of its family's
  [[nodiscard]] std::vector<const Row*> relatives(int64_t row) const;
  void fit_table(int64_t rows, int64_t blocks);

  Device& device_;
  PagedStoreConfig config_;
  std::vector<Row> rows_;
  int64_t steps_ = 0;
  int64_t families_ = 0;  // so far
  int64_t keep_free_ = 0;
  std::array<int64_t, kTiers> moved_{};
  bool is_moving_ = false;         // an allocation for a move must not move others
  int64_t blocks_per_list_ = 0;    // stride of the table
  DeviceArray<std::byte*> table_;  // [rows, lists, blocks_per_list_]
};

}  // namespace shadowkv
