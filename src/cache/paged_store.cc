#include "cache/paged_store.h"

#include <algorithm>

#include "base/check.h"

namespace shadowkv {

PagedStore::PagedStore(Device& device, const PagedStoreConfig& config)
    : device_(device), config_(config), table_(device) {
  require(config.block_tokens > 0 && config.token_bytes > 0 && config.lists > 0,
          "a paged store needs tokens a block, bytes a token and lists; got {}, {}, {}", config.block_tokens,
          config.token_bytes, config.lists);
  if (config.prefer_device && config.spill_to_host) {
    device.add_relief(this, [this](int64_t bytes) { return spill(bytes); });
  }
}

PagedStore::~PagedStore() {
  device_.remove_relief(this);
}

// The row to move blocks from: one that has begun to move, else the one that holds most on the device. So
// nearly every sequence lies whole in one memory: a step can be cut into parts that travel and parts that do
// not, and every layer has the same share of both.
PagedStore::Row* PagedStore::next_to_spill() {
  Row* chosen = nullptr;
  const auto on_device = [](const Row& row) { return row.held[static_cast<std::size_t>(Tier::device)]; };
  const auto has_begun = [](const Row& row) {
    return row.held[static_cast<std::size_t>(Tier::pinned_host)] > 0;
  };
  for (Row& row : rows_) {
    if (on_device(row) == 0) continue;
    const bool is_better = !chosen || (has_begun(row) && !has_begun(*chosen)) ||
                           (has_begun(row) == has_begun(*chosen) && on_device(row) > on_device(*chosen));
    if (is_better) chosen = &row;
  }
  return chosen;
}

// Moves blocks of one row from the device to the host, from its ends; returns the bytes moved.
int64_t PagedStore::spill(int64_t bytes) {
  Row* from = next_to_spill();
  if (!from) return 0;
  device_.compute().synchronize();
  device_.copy().synchronize();
  const int64_t moved = spill_row(*from, std::max(bytes, config_.least_spill_bytes));
  write_table(from - rows_.data());
  return moved;
}

int64_t PagedStore::spill_row(Row& entry, int64_t bytes) {
  std::vector<std::pair<Block*, Block>> moves;
  int64_t moved = 0;
  for (auto& list : entry.lists) {
    for (std::size_t i = list.size(); i-- > 0 && moved < bytes;) {
      if (list[i]->tier() != Tier::device) continue;
      Buffer host = device_.allocate(Tier::pinned_host, config_.purpose, list[i]->bytes());
      device_.compute().copy(host.data(), list[i]->data(), host.bytes());
      moved += host.bytes();
      moves.emplace_back(&list[i], std::make_shared<Buffer>(std::move(host)));
    }
  }
  device_.compute().synchronize();  // the old blocks die here
  for (auto& [place, block] : moves) *place = std::move(block);
  return moved;
}

int64_t PagedStore::capacity_for(int64_t tokens) const {
  const int64_t step = config_.growth_tokens > 0 ? config_.growth_tokens : config_.block_tokens;
  const int64_t whole = tokens / config_.block_tokens * config_.block_tokens;
  return whole + std::min(round_up(tokens - whole, step), config_.block_tokens);
}

int64_t PagedStore::bytes_for(int64_t tokens) const {
  return checked_mul(capacity_for(tokens), config_.token_bytes * config_.lists, "paged storage");
}

PagedStore::Block PagedStore::allocate(int64_t bytes) {
  const bool fits =
      config_.prefer_device && (!config_.spill_to_host || device_.free_bytes(Tier::device) >= bytes);
  return std::make_shared<Buffer>(
      device_.allocate(fits ? Tier::device : Tier::pinned_host, config_.purpose, bytes));
}

// Brings a list to `capacity` tokens. The last block may be replaced by a longer copy of itself.
void PagedStore::grow_list(std::vector<Block>& list, int64_t capacity) {
  const int64_t blocks = ceil_div(capacity, config_.block_tokens);
  for (int64_t i = list.empty() ? 0 : static_cast<int64_t>(list.size()) - 1; i < blocks; ++i) {
    const int64_t tokens = std::min(config_.block_tokens, capacity - i * config_.block_tokens);
    const int64_t bytes = tokens * config_.token_bytes;
    const bool exists = i < static_cast<int64_t>(list.size());
    if (exists && list[static_cast<std::size_t>(i)]->bytes() >= bytes) continue;
    Block block = allocate(bytes);
    if (!exists) {
      list.push_back(std::move(block));
      continue;
    }
    Block& old = list[static_cast<std::size_t>(i)];
    device_.compute().copy(block->data(), old->data(), old->bytes());
    device_.compute().synchronize();  // the old block dies here
    old = std::move(block);
  }
}

void PagedStore::reserve(int64_t row, int64_t tokens) {
  if (row >= static_cast<int64_t>(rows_.size())) rows_.resize(static_cast<std::size_t>(row) + 1);
  Row& entry = rows_[static_cast<std::size_t>(row)];
  const int64_t capacity = capacity_for(tokens);
  if (capacity <= entry.capacity) return;
  std::vector<std::vector<Block>> lists = entry.lists;  // shares blocks; dropped whole if an allocation fails
  lists.resize(static_cast<std::size_t>(config_.lists));
  for (auto& list : lists) grow_list(list, capacity);
  entry.lists = std::move(lists);
  entry.capacity = capacity;
  fit_table(static_cast<int64_t>(rows_.size()), ceil_div(capacity, config_.block_tokens));
  write_table(row);
}

void PagedStore::release(int64_t row) {
  if (row >= static_cast<int64_t>(rows_.size())) return;
  rows_[static_cast<std::size_t>(row)] = Row();
}

void PagedStore::move(int64_t row, Tier to) {
  if (row >= static_cast<int64_t>(rows_.size())) return;
  Row& entry = rows_[static_cast<std::size_t>(row)];
  Queue& queue = device_.compute();
  std::vector<std::vector<Block>> lists = entry.lists;
  for (auto& list : lists) {
    for (Block& block : list) {
      if (block->tier() == to) continue;
      auto moved = std::make_shared<Buffer>(device_.allocate(to, config_.purpose, block->bytes()));
      queue.copy(moved->data(), block->data(), block->bytes());
      block = std::move(moved);
    }
  }
  queue.synchronize();  // the old blocks die here
  entry.lists = std::move(lists);
  write_table(row);
}

int64_t PagedStore::held_bytes(int64_t row, Tier tier) const {
  if (row >= static_cast<int64_t>(rows_.size())) return 0;
  return rows_[static_cast<std::size_t>(row)].held[static_cast<std::size_t>(tier)];
}

int64_t PagedStore::capacity_tokens(int64_t row) const {
  return row < static_cast<int64_t>(rows_.size()) ? rows_[static_cast<std::size_t>(row)].capacity : 0;
}

// Doubles the stride when a sequence outgrows it and rewrites every row.
void PagedStore::fit_table(int64_t rows, int64_t blocks) {
  const bool wider = blocks > blocks_per_list_;
  if (wider) blocks_per_list_ = std::max(blocks, 2 * blocks_per_list_);
  const int64_t entries = rows * config_.lists * blocks_per_list_;
  if (entries > table_.size()) table_.resize(entries);
  if (wider) {
    for (int64_t row = 0; row < rows; ++row) write_table(row);
  }
}

void PagedStore::write_table(int64_t row) {
  Row& entry = rows_[static_cast<std::size_t>(row)];
  entry.held = {};
  for (const auto& list : entry.lists) {
    for (const Block& block : list) entry.held[static_cast<std::size_t>(block->tier())] += block->bytes();
  }
  for (std::size_t list = 0; list < entry.lists.size(); ++list) {
    const int64_t base = (row * config_.lists + static_cast<int64_t>(list)) * blocks_per_list_;
    for (std::size_t i = 0; i < entry.lists[list].size(); ++i) {
      table_.set(base + static_cast<int64_t>(i), entry.lists[list][i]->data());
    }
  }
}

PagedView PagedStore::view(Queue& queue, int64_t first_list, bool by_head) {
  PagedView view;
  view.table = table_.upload(queue) + first_list * blocks_per_list_;
  view.seq_stride = config_.lists * blocks_per_list_;
  view.head_stride = by_head ? blocks_per_list_ : 0;
  view.block_tokens = config_.block_tokens;
  return view;
}

}  // namespace shadowkv
