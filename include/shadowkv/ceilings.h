// What a machine's memories, link and matrix units reach, measured by small ops of the library itself: the
// bounds that a decode step is judged against.
#pragma once

#include <cstdint>
#include <vector>

#include "shadowkv/shadowkv.h"

namespace shadowkv {

// What comes over the link in pieces of one size.
struct GatherCeiling {
  int64_t piece_bytes = 0;  // bytes a piece
  double bytes_per_s = 0;   // bytes/s of all pieces together
};

// Each the best of several runs. On the CPU both tiers are ordinary memory.
struct Ceilings {
  double device_read = 0;                  // bytes/s of device memory, read from end to end
  double link_copy = 0;                    // bytes/s of one large copy from host to device memory
  std::vector<GatherCeiling> link_gather;  // from host memory in pieces, rising sizes
  double product = 0;                      // flop/s of a large product of matrices in bfloat16

  // That of the largest measured piece up to piece_bytes, or of the smallest; 0 when none was measured.
  [[nodiscard]] double gather_rate(int64_t piece_bytes) const;
};

// Takes memory within the options' budgets and gives it back: on a GPU up to 4 GiB of each tier, on the CPU
// 256 MiB. Call it before Engine::load, not beside a full engine. Throws as Engine::load does.
[[nodiscard]] Ceilings measure_ceilings(const EngineOptions& options);

}  // namespace shadowkv
