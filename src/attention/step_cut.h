// How a decode step's batch is cut, so that values travel over the host link beside arithmetic: into parts
// that compute one after the other within each layer, or into two micro-batches that go through all layers
// by themselves. Policy alone; shadow_decode.cc runs what is cut.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace shadowkv {

// Sequences [first, first + count) of a step.
struct StepPart {
  int64_t first = 0;
  int64_t count = 0;
  bool over_link = false;  // some of their values lie in host memory
};

// Parts side by side, in the order in which they choose and fetch.
struct StepCut {
  int64_t first = 0;
  int64_t count = 0;
  std::vector<StepPart> parts;
};

struct StepToCut {
  std::span<const int64_t> host_bytes;  // of values, of each sequence; 0 for those that do not travel
  int64_t picked_bytes = 0;             // of values that those which travel attend a layer
  int64_t lanes = 1;                    // of the device, for parts
  bool reranks = false;
  int64_t step_parts = 0;     // as configured, 0: as suits
  int64_t micro_batches = 0;  // likewise
};

// 1 or 2. Two hide all arithmetic behind the link and the other way round, but read the weights twice.
[[nodiscard]] int64_t micro_batches_of(const StepToCut& step);
// Place i of the batch goes to sequence arranged[i]: those that travel first, in each of two micro-batches
// half of them; empty: as they come.
[[nodiscard]] std::vector<int64_t> arrange_step(const StepToCut& step);
// Sequences as arrange_step() puts them; otherwise, one cut, which may have parts of both kinds.
[[nodiscard]] std::vector<StepCut> cut_step(const StepToCut& step);

}  // namespace shadowkv
