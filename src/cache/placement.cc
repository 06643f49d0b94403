#include "cache/placement.h"

#include <algorithm>
#include <tuple>

namespace shadowkv {
namespace {

// Steps after which a row that none of them used makes room for one that is in use: more than the turns that
// batches take, which would otherwise push each other out.
constexpr int64_t kIdleSteps = 64;

// The index that `holds` and has the greatest rank.
template <typename Holds, typename Rank>
std::optional<int64_t> best(std::span<const PlacedRow> rows, const Holds& holds, const Rank& rank) {
  std::optional<int64_t> found;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (!holds(rows[i])) continue;
    if (!found || rank(rows[i]) > rank(rows[static_cast<std::size_t>(*found)]))
      found = static_cast<int64_t>(i);
  }
  return found;
}

}  // namespace

std::optional<int64_t> next_down(std::span<const PlacedRow> rows) {
  return best(
      rows, [](const PlacedRow& row) { return row.device_bytes > 0; },
      [](const PlacedRow& row) { return std::tuple(-row.last_used, row.host_bytes > 0, row.device_bytes); });
}

std::optional<int64_t> next_up(std::span<const PlacedRow> rows) {
  return best(
      rows, [](const PlacedRow& row) { return row.host_bytes > 0; },
      [](const PlacedRow& row) { return std::pair(row.last_used, -row.host_bytes); });
}

std::optional<PlacedMove> next_move(std::span<const PlacedRow> rows, const PlacementRoom& room) {
  const std::optional<int64_t> down = next_down(rows);
  if (down && room.free < room.keep_free) {
    return PlacedMove{*down, Tier::pinned_host, std::min(room.keep_free - room.free, room.most)};
  }
  const auto is_idle = [&](int64_t i) {
    return room.now - rows[static_cast<std::size_t>(i)].last_used >= kIdleSteps;
  };
  const std::optional<int64_t> up = next_up(rows);
  if (!up || is_idle(*up)) return {};
  const int64_t spare = room.free - room.keep_free - room.slack;
  if (spare > 0) return PlacedMove{*up, Tier::device, std::min(spare, room.most)};
  if (down && is_idle(*down)) return PlacedMove{*down, Tier::pinned_host, room.most};
  return {};
}

}  // namespace shadowkv
