// Which rows' blocks lie on the device and which in host memory, where both will do: policy alone; PagedStore
// moves them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/device.h"

namespace shadowkv {

// Blocks of one row that may lie in either memory.
struct PlacedRow {
  int64_t device_bytes = 0;
  int64_t host_bytes = 0;
  int64_t last_used = 0;  // step that used it last
};

struct PlacementRoom {
  int64_t free = 0;       // bytes of the device
  int64_t keep_free = 0;  // of them for others; below that, blocks move down
  int64_t slack = 0;      // further bytes that no move up may take: what is free comes and goes by less
  int64_t most = 0;       // bytes that may move at a time
  int64_t now = 0;        // the latest step
};

struct PlacedMove {
  int64_t row = 0;  // index of it
  Tier to = Tier::device;
  int64_t bytes = 0;
};

// The row whose blocks leave the device first: the least recently used; of those one that has begun to move,
// so that nearly every row lies whole in one memory; then the one with most on the device, so that few rows
// move. Nothing where no row has any there.
[[nodiscard]] std::optional<int64_t> next_down(std::span<const PlacedRow> rows);
// The row whose blocks return first: the most recently used; of those the one with least in host memory,
// which soonest has nothing left to travel for.
[[nodiscard]] std::optional<int64_t> next_up(std::span<const PlacedRow> rows);

// The move to make between two steps, if any: down while less than keep_free is free; for a row in use, up
// while more than that and the slack is, and down where another has not been used for a while.
[[nodiscard]] std::optional<PlacedMove> next_move(std::span<const PlacedRow> rows, const PlacementRoom& room);

}  // namespace shadowkv
