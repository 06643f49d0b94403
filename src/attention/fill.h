// Made-up rows for benchmarks of decode: numbers of about the size that real ones have.
#pragma once

#include "kernels/kernels.h"

namespace shadowkv {

struct FillRows {
  int64_t row = 0;
  int64_t tokens = 0;
  int64_t heads = 1;
  int64_t elements = 0;  // a row
  uint64_t seed = 0;
};

// Numbers of variance about 1 in a view's own type; with int8 the scales make them so.
inline void fill_rows(Queue& queue, const QuantizedView& to, const FillRows& rows) {
  constexpr float kBound = 1.7f;
  const bool codes = to.data.dtype == DType::i8;
  randomize_rows(queue, {.to = to.data,
                         .row = rows.row,
                         .tokens = rows.tokens,
                         .heads = rows.heads,
                         .elements = rows.elements,
                         .low = codes ? -127.0f : -kBound,
                         .high = codes ? 127.0f : kBound,
                         .seed = rows.seed});
  if (!codes) return;
  randomize_rows(queue, {.to = to.scales,
                         .row = rows.row,
                         .tokens = rows.tokens,
                         .heads = rows.heads,
                         .elements = 1,
                         .low = kBound / 127.0f,
                         .high = kBound / 127.0f,
                         .seed = rows.seed});
}

}  // namespace shadowkv
