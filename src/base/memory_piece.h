// A piece of memory that somebody else owns, in either tier or in the host's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace shadowkv {

struct MemoryPiece {
  std::byte* data = nullptr;
  int64_t bytes = 0;
};

[[nodiscard]] inline int64_t bytes_of(std::span<const MemoryPiece> pieces) {
  int64_t sum = 0;
  for (const MemoryPiece& piece : pieces) sum += piece.bytes;
  return sum;
}

}  // namespace shadowkv
