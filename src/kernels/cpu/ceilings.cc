#include <cstring>
#include <vector>

#include "kernels/cpu/work.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

constexpr int64_t kRangeNumbers = 1 << 16;  // half a megabyte: many ranges a thread, long enough to stream
constexpr int64_t kPiecesAtOnce = 64;

}  // namespace

void read_memory(Queue& queue, const ReadMemoryParams& params) {
  const int64_t total = params.from.shape[0];
  const auto* numbers = params.from.as<int64_t>();
  std::vector<int64_t> folded(static_cast<std::size_t>((total + kRangeNumbers - 1) / kRangeNumbers));
  share_ranges(queue, total, kRangeNumbers, total, [&](int64_t first, int64_t count) {
    int64_t bits = 0;
    for (int64_t i = first; i < first + count; ++i) bits ^= numbers[i];
    folded[static_cast<std::size_t>(first / kRangeNumbers)] = bits;
  });
  int64_t bits = 0;
  for (const int64_t part : folded) bits ^= part;
  *params.folded.as<int64_t>() = bits;
}

void gather_pieces(Queue& queue, const GatherPiecesParams& params) {
  const int64_t pieces = params.ids.shape[0];
  const int64_t bytes = params.from.shape[1];
  const auto* ids = params.ids.as<int32_t>();
  share_ranges(queue, pieces, kPiecesAtOnce, pieces * bytes, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      std::memcpy(params.out.data + i * bytes, params.from.data + ids[i] * bytes,
                  static_cast<std::size_t>(bytes));
    }
  });
}

}  // namespace shadowkv::cpu
