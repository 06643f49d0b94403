// File encodings -> float, bit for bit as the formats define them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "formats/encoding.h"

namespace shadowkv {

// Expands consecutive elements: `blocks` holds whole blocks of `encoding` (any alignment), `out` takes
// blocks.size() / layout.bytes * layout.elements floats. Throws InvalidInput when the sizes do not agree.
void dequantize(Encoding encoding, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace shadowkv
