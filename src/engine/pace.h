// How much of a prompt may be read between two decode steps, so that the gap between a stream's tokens stays
// under a multiple of what it is without reading: policy alone, by times that its caller measured.
#pragma once

#include <cstdint>

namespace shadowkv {

// What a unit of reading costs, in any unit: rows * (row + key * keys that a row attends to on average).
struct UnitWork {
  double row = 1;
  double key = 0;

  // Of queries [first, first + rows) of a layer.
  [[nodiscard]] double of(int64_t first, int64_t rows) const;
};

// What may be read next of a prompt: a layer's slice of at most so many queries, or closing the layer for at
// most so many tokens.
struct NextUnit {
  int64_t first = 0;    // query or token
  int64_t most = 0;     // queries or tokens
  int64_t closing = 0;  // multiples of so many tokens are where closing can be cut; 0: a slice
};

class Pace {
 public:
  // max_gap: over 1. Slices of fewer than good_rows are only taken where more would take too long: they read
  // the weights for too little.
  Pace(double max_gap, const UnitWork& work, int64_t good_rows);

  void step_took(double seconds);
  void slice_took(int64_t first, int64_t rows, double seconds);  // queries [first, first + rows) of a layer
  void closing_took(int64_t tokens, double seconds);             // closing a layer for so many tokens

  // Seconds of reading that may go before the next step.
  [[nodiscard]] double allowance() const;
  // Queries or tokens of the next unit, when so many of those seconds are left. 0: it would take longer, and
  // is not the first before that step, which is read in any case, as small as it can be.
  [[nodiscard]] int64_t rows_of(const NextUnit& unit, double seconds, bool is_first) const;
  // Most queries from `first` on that take no longer, up to most_rows; 0 when one takes longer.
  [[nodiscard]] int64_t rows_within(double seconds, int64_t first, int64_t most_rows) const;
  // Most tokens, in multiples of least or all of most_tokens, that closing a layer for takes no longer; 0
  // when the least takes longer.
  [[nodiscard]] int64_t closed_within(double seconds, int64_t least, int64_t most_tokens) const;

 private:
  double max_gap_;
  UnitWork work_;
  int64_t good_rows_;
  double step_s_ = 0;      // smoothed; 0: none measured yet
  double s_per_work_ = 0;  // likewise
  double s_per_closed_token_ = 0;
};

}  // namespace shadowkv
