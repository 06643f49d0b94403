#include "cache/paged_store.h"

#include <algorithm>
#include <limits>
#include <unordered_set>
#include <utility>

#include "base/check.h"

namespace shadowkv {

namespace {

// When a row was used last that is to stay where it was sent until a step uses it.
constexpr int64_t kNever = std::numeric_limits<int64_t>::min() / 2;

// Returns when all work of all lanes is done.
void synchronize(Device& device) {
  for (int i = 0; i < device.lanes(); ++i) {
    const Lane lane = device.lane(i);
    lane.compute.synchronize();
    lane.copy.synchronize();
  }
}

}  // namespace

PagedStore::PagedStore(Device& device, const PagedStoreConfig& config)
    : device_(device), config_(config), table_(device) {
  require(config.block_tokens > 0 && config.token_bytes > 0 && config.lists > 0,
          "a paged store needs tokens a block, bytes a token and lists; got {}, {}, {}", config.block_tokens,
          config.token_bytes, config.lists);
  if (moves()) {
    device.add_relief(this,
                      [this](int64_t bytes) { return relieve(std::max(bytes, config_.least_spill_bytes)); });
  }
}

PagedStore::~PagedStore() {
  device_.remove_relief(this);
}

// ---- placement --------------------------------------------------------------------------------------------

// Rows that share blocks were used when the latest of them was. What one that was sent to the host has on the
// device is others'.
std::vector<PlacedRow> PagedStore::placed() const {
  std::vector<PlacedRow> placed;
  placed.reserve(rows_.size());
  for (const Row& row : rows_) {
    placed.push_back({row.held[static_cast<std::size_t>(Tier::device)],
                      row.held[static_cast<std::size_t>(Tier::pinned_host)], row.last_used});
    PlacedRow& here = placed.back();
    for (const Row* other : relatives(&row - rows_.data())) {
      if (other->last_used == kNever) continue;
      if (row.last_used == kNever) here.device_bytes = 0;
      if (row.last_used != kNever) here.last_used = std::max(here.last_used, other->last_used);
    }
  }
  return placed;
}

// The slack is twice what an allocation that finds no room moves down, so that this does not come up again at
// once; of small devices, a small share.
PlacementRoom PagedStore::room() const {
  constexpr int64_t kShare = 32;
  const int64_t budget = device_.memory().budget[static_cast<std::size_t>(Tier::device)];
  return {.free = device_.free_bytes(Tier::device),
          .keep_free = keep_free_,
          .slack = std::min(2 * config_.least_spill_bytes, budget / kShare),
          .most = config_.most_moved_bytes,
          .now = steps_};
}

void PagedStore::end_step(std::span<const int64_t> rows) {
  ++steps_;
  for (const int64_t row : rows) rows_[static_cast<std::size_t>(row)].last_used = steps_;
  if (!moves()) return;
  int64_t moved = 0;
  while (moved < config_.most_moved_bytes) {
    PlacementRoom now = room();
    now.most -= moved;
    const std::optional<PlacedMove> next = next_move(placed(), now);
    const int64_t bytes = next ? move_blocks(*next) : 0;
    if (bytes == 0) return;
    moved += bytes;
  }
}

int64_t PagedStore::movable_bytes() const {
  return moves() ? held_bytes(Tier::device) : 0;
}

// Blocks of one row, for an allocation that found no room. Kernels of any queue may read what moves, and
// whoever asked may use what is freed on any other.
int64_t PagedStore::relieve(int64_t bytes) {
  const std::optional<int64_t> row = next_down(placed());
  if (is_moving_ || !row) return 0;
  synchronize(device_);
  const int64_t moved = move_blocks({*row, Tier::pinned_host, bytes});
  synchronize(device_);
  return moved;
}

int64_t PagedStore::release_device(int64_t bytes) {
  int64_t moved = 0, more = moves() ? 1 : 0;
  while (more > 0 && device_.free_bytes(Tier::device) < bytes) {
    more = relieve(bytes - device_.free_bytes(Tier::device));
    moved += more;
  }
  return moved;
}

// Nothing where the tier has no room: a move is a wish.
std::optional<Buffer> PagedStore::try_allocate(Tier tier, int64_t bytes) {
  if (device_.free_bytes(tier) < bytes) return {};
  try {
    return device_.allocate(tier, config_.purpose, bytes);
  } catch (const OutOfMemory&) {
    return {};
  }
}

// A move under way. Its end writes what has moved into the table, whatever ended it.
class PagedStore::Moving {
 public:
  Moving(PagedStore& store, int64_t row, const int64_t& moved) : store_(store), row_(row), moved_(moved) {
    store_.is_moving_ = true;
  }
  Moving(const Moving&) = delete;
  Moving& operator=(const Moving&) = delete;
  ~Moving() {
    store_.is_moving_ = false;
    if (moved_ > 0) store_.write_tables(row_);
  }

 private:
  PagedStore& store_;
  int64_t row_;
  const int64_t& moved_;
};

// List by list, so that what a layer reads lies together in host memory and what is freed makes whole slabs
// of the device: the last blocks of a list go down first, the first ones up. The old blocks die at once:
// their next user comes later in the compute queue's order.
int64_t PagedStore::move_blocks(const PlacedMove& move) {
  Row& entry = rows_[static_cast<std::size_t>(move.row)];
  int64_t moved = 0;
  const Moving moving(*this, move.row, moved);
  for (const auto& list : entry.lists) {
    const auto count = static_cast<int64_t>(list.size());
    for (int64_t n = 0; n < count; ++n) {
      Buffer& block = *list[static_cast<std::size_t>(move.to == Tier::device ? n : count - 1 - n)];
      if (block.tier() == move.to) continue;
      std::optional<Buffer> place;
      if (moved < move.bytes) place = try_allocate(move.to, block.bytes());
      if (!place) return moved;
      copy(block, *place, place->bytes());
      moved += place->bytes();
      block = std::move(*place);
    }
  }
  return moved;
}

// ---- rows -------------------------------------------------------------------------------------------------

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

// The first bytes of a block, in the compute queue's order.
void PagedStore::copy(const Buffer& from, const Buffer& to, int64_t bytes) {
  device_.compute().copy(to.data(), from.data(), bytes);
  if (from.tier() != to.tier()) moved_[static_cast<std::size_t>(to.tier())] += bytes;
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
    copy(*old, *block, old->bytes());
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
  if (entry.capacity == 0) entry.last_used = steps_;
  entry.lists = std::move(lists);
  entry.capacity = capacity;
  fit_table(static_cast<int64_t>(rows_.size()), ceil_div(capacity, config_.block_tokens));
  write_table(row);
}

void PagedStore::release(int64_t row) {
  if (row >= static_cast<int64_t>(rows_.size())) return;
  Row& entry = rows_[static_cast<std::size_t>(row)];
  const int64_t family = std::exchange(entry.family, 0);
  entry = Row();
  const auto is_of_it = [family](const Row& other) { return other.family == family; };
  if (family != 0 && std::ranges::count_if(rows_, is_of_it) == 1)
    std::ranges::find_if(rows_, is_of_it)->family = 0;
}

void PagedStore::share(int64_t from, int64_t to, int64_t tokens) {
  if (tokens == 0) return;
  if (to >= static_cast<int64_t>(rows_.size())) rows_.resize(static_cast<std::size_t>(to) + 1);
  const int64_t capacity = capacity_for(tokens), whole = tokens / config_.block_tokens;
  const int64_t open_bytes = (capacity - whole * config_.block_tokens) * config_.token_bytes;
  Row& source = rows_[static_cast<std::size_t>(from)];
  std::vector<std::vector<Block>> lists;
  for (const auto& list : source.lists) {
    std::vector<Block>& mine = lists.emplace_back(list.begin(), list.begin() + whole);
    if (open_bytes == 0) continue;
    mine.push_back(allocate(open_bytes));
    const Buffer& open = *list[static_cast<std::size_t>(whole)];
    copy(open, *mine.back(), std::min(open.bytes(), open_bytes));
  }
  Row& entry = rows_[static_cast<std::size_t>(to)];
  entry.lists = std::move(lists);
  entry.capacity = capacity;
  entry.last_used = steps_;
  if (source.family == 0) source.family = ++families_;
  entry.family = source.family;
  fit_table(static_cast<int64_t>(rows_.size()), ceil_div(capacity, config_.block_tokens));
  write_table(to);
}

// Others of its family.
std::vector<const PagedStore::Row*> PagedStore::relatives(int64_t row) const {
  std::vector<const Row*> others;
  const Row& entry = rows_[static_cast<std::size_t>(row)];
  if (entry.family == 0) return others;
  for (const Row& other : rows_) {
    if (&other != &entry && other.family == entry.family) others.push_back(&other);
  }
  return others;
}

void PagedStore::move(int64_t row, Tier to) {
  if (row >= static_cast<int64_t>(rows_.size())) return;
  std::unordered_set<const Buffer*> stay;
  for (const Row* other : relatives(row)) {
    if (to == Tier::device || other->last_used == kNever) continue;
    for (const auto& list : other->lists) {
      for (const Block& block : list) stay.insert(block.get());
    }
  }
  Row& entry = rows_[static_cast<std::size_t>(row)];
  std::vector<std::pair<Buffer*, Buffer>> moved;
  for (const auto& list : entry.lists) {
    for (const Block& block : list) {
      if (block->tier() == to || stay.contains(block.get())) continue;
      moved.emplace_back(block.get(), device_.allocate(to, config_.purpose, block->bytes()));
      copy(*block, moved.back().second, block->bytes());
    }
  }
  device_.compute().synchronize();  // the old blocks die here
  for (auto& [block, there] : moved) *block = std::move(there);
  entry.last_used = to == Tier::pinned_host ? kNever : steps_;
  write_tables(row);
}

void PagedStore::add_memory(int64_t row, int64_t tokens, std::span<const int64_t> arrays,
                            std::vector<MemoryPiece>& to) const {
  if (tokens == 0) return;
  for (const auto& list : rows_[static_cast<std::size_t>(row)].lists) {
    for (int64_t i = 0; i * config_.block_tokens < tokens; ++i) {
      const Buffer& block = *list[static_cast<std::size_t>(i)];
      const int64_t room = block.bytes() / config_.token_bytes;
      const int64_t held = std::min(config_.block_tokens, tokens - i * config_.block_tokens);
      if (held == room) {
        to.push_back({block.data(), block.bytes()});
        continue;
      }
      int64_t at = 0;
      for (const int64_t bytes : arrays) {
        to.push_back({block.data() + at, held * bytes});
        at += room * bytes;
      }
    }
  }
}

int64_t PagedStore::held_bytes(int64_t row, Tier tier) const {
  if (row >= static_cast<int64_t>(rows_.size())) return 0;
  return rows_[static_cast<std::size_t>(row)].held[static_cast<std::size_t>(tier)];
}

int64_t PagedStore::held_bytes(Tier tier) const {
  int64_t sum = 0;
  std::unordered_set<const Buffer*> seen;
  for (const Row& row : rows_) {
    if (row.family == 0) {
      sum += row.held[static_cast<std::size_t>(tier)];
      continue;
    }
    for (const auto& list : row.lists) {
      for (const Block& block : list) {
        if (block->tier() == tier && seen.insert(block.get()).second) sum += block->bytes();
      }
    }
  }
  return sum;
}

// Most rows lie whole in one tier, and then no block is looked at: this is asked in every step.
int64_t PagedStore::bytes_of(const Part& part, Tier tier) const {
  const Row& row = rows_[static_cast<std::size_t>(part.row)];
  const int64_t here = row.held[static_cast<std::size_t>(tier)];
  if (here == 0) return 0;
  const int64_t all = part.lists * (part.end - part.first) * config_.token_bytes;
  if (here == row.held[0] + row.held[1]) return all;
  int64_t tokens = 0;
  for (int64_t l = part.first_list; l < part.first_list + part.lists; ++l) {
    const auto& list = row.lists[static_cast<std::size_t>(l)];
    for (int64_t i = part.first / config_.block_tokens; i * config_.block_tokens < part.end; ++i) {
      const int64_t begin = i * config_.block_tokens;
      if (list[static_cast<std::size_t>(i)]->tier() != tier) continue;
      tokens += std::min(part.end, begin + config_.block_tokens) - std::max(part.first, begin);
    }
  }
  return tokens * config_.token_bytes;
}

int64_t PagedStore::shared_bytes(int64_t tokens) const {
  return memory_bytes(tokens / config_.block_tokens * config_.block_tokens);
}

int64_t PagedStore::capacity_tokens(int64_t row) const {
  return row < static_cast<int64_t>(rows_.size()) ? rows_[static_cast<std::size_t>(row)].capacity : 0;
}

// Doubles the stride when a sequence outgrows it and rewrites every row.
void PagedStore::fit_table(int64_t rows, int64_t blocks) {
  const bool wider = blocks > blocks_per_list_;
  if (wider) blocks_per_list_ = std::max(blocks, 2 * blocks_per_list_);
  const int64_t entries = rows * config_.lists * blocks_per_list_;
  if (!wider) {
    if (entries > table_.size()) table_.resize(entries);
    return;
  }
  table_.lay_out(entries);
  for (int64_t row = 0; row < rows; ++row) write_table(row);
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

void PagedStore::write_tables(int64_t row) {
  const int64_t family = rows_[static_cast<std::size_t>(row)].family;
  for (int64_t other = 0; other < static_cast<int64_t>(rows_.size()); ++other) {
    const bool is_of_it = family != 0 && rows_[static_cast<std::size_t>(other)].family == family;
    if (other == row || is_of_it) write_table(other);
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
