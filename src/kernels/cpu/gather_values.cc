#include <vector>

#include "kernels/cpu/storage.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {
namespace {

// Values of one chunk into one slot.
SHADOWKV_INLINE void gather_chunk(const GatherValuesParams& p, int64_t row, int64_t head, int64_t chunk,
                                  int64_t slot, float* numbers) {
  const SlotView& slots = p.slots;
  const int64_t bytes = slots.head_dim * size_of(slots.dtype);
  std::byte* to = slots.values(row, head, slot);
  for (int64_t t = 0; t < slots.chunk; ++t) {
    read_quantized(p.values, row, head, chunk * slots.chunk + t, slots.head_dim, numbers);
    write_row(numbers, slots.head_dim, slots.dtype, to + t * bytes);
  }
}

}  // namespace

void gather_values(Queue& queue, const GatherValuesParams& p) {
  const int64_t heads = p.slots.kv_heads, entries = p.assigned.shape[2], candidates = p.chunks.shape[2];
  for_pieces(queue, p.batch.size * heads, entries * p.slots.chunk * p.slots.head_dim / 8, [&](int64_t bg) {
    const int64_t row = p.batch.rows[bg / heads];
    std::vector<float> numbers(static_cast<std::size_t>(p.slots.head_dim));
    run_best([&]() SHADOWKV_LAMBDA_INLINE {
      for (int64_t i = bg * entries; i < (bg + 1) * entries; ++i) {
        const int64_t slot = p.assigned.as<int32_t>()[i], source = p.source.as<int32_t>()[i];
        if (slot < 0 || source < 0) continue;
        const int64_t chunk = p.chunks.as<int32_t>()[bg * candidates + source];
        gather_chunk(p, row, bg % heads, chunk, slot, numbers.data());
      }
    });
  });
}

}  // namespace shadowkv::cpu
