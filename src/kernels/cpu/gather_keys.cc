#include "base/tensor.h"
#include "kernels/cpu/storage.h"
#include "kernels/twins.h"

namespace shadowkv::cpu {

void gather_keys(Queue& queue, const GatherKeysParams& p) {
  const int64_t heads = p.out.shape[1], candidates = p.out.shape[2];
  const int64_t bytes = p.head_dim * size_of(p.out.dtype);
  for_pieces(queue, p.batch.size * heads, candidates * p.chunk * bytes / 16, [&](int64_t bg) {
    const int64_t row = p.batch.rows[bg / heads];
    const int32_t* listed = p.missing.as<int32_t>() + bg * candidates * 2;
    for (int64_t i = 0; i < candidates && listed[2 * i] >= 0; ++i) {
      std::byte* to = p.out.data + (bg * candidates + listed[2 * i]) * p.chunk * bytes;
      const int64_t first = int64_t{listed[2 * i + 1]} * p.chunk;
      for (int64_t t = 0; t < p.chunk; ++t) {
        std::memcpy(to + t * bytes, p.keys.at(row, bg % heads, first + t), static_cast<std::size_t>(bytes));
      }
    }
  });
}

}  // namespace shadowkv::cpu
