#include "formats/dequantize.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace shadowkv {
namespace {

constexpr int64_t kBlock = 32;  // elements that share a scale

template <typename T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// Exact, subnormals and infinities included, and free of branches so that compilers vectorise it: the half's
// exponent and fraction are read as a float that is 2^112 too small.
float half_to_float(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  return std::bit_cast<float>(((half & 0x7c00u) == 0x7c00u ? special : finite) | sign);
}

void expand_f16(const std::byte* from, float* out, int64_t elements) {
  for (int64_t i = 0; i < elements; ++i) out[i] = half_to_float(load<uint16_t>(from + 2 * i));
}

void expand_bf16(const std::byte* from, float* out, int64_t elements) {
  for (int64_t i = 0; i < elements; ++i) {
    out[i] = std::bit_cast<float>(static_cast<uint32_t>(load<uint16_t>(from + 2 * i)) << 16);
  }
}

// Block: scale, 32 signed bytes.
void expand_q8_0(const std::byte* block, float* out) {
  const float scale = half_to_float(load<uint16_t>(block));
  const std::byte* quants = block + 2;
  for (int64_t i = 0; i < kBlock; ++i) out[i] = static_cast<float>(load<int8_t>(quants + i)) * scale;
}

// Block: scale, 16 bytes; low nibbles are elements 0..15, high nibbles 16..31, each stored plus 8.
void expand_q4_0(const std::byte* block, float* out) {
  const float scale = half_to_float(load<uint16_t>(block));
  const std::byte* quants = block + 2;
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    const int byte = load<uint8_t>(quants + i);
    out[i] = static_cast<float>((byte & 15) - 8) * scale;
    out[i + kBlock / 2] = static_cast<float>((byte >> 4) - 8) * scale;
  }
}

// Block: scale, minimum, 16 bytes of nibbles as in Q4_0, stored as they are.
void expand_q4_1(const std::byte* block, float* out) {
  const float scale = half_to_float(load<uint16_t>(block));
  const float minimum = half_to_float(load<uint16_t>(block + 2));
  const std::byte* quants = block + 4;
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    const int byte = load<uint8_t>(quants + i);
    out[i] = static_cast<float>(byte & 15) * scale + minimum;
    out[i + kBlock / 2] = static_cast<float>(byte >> 4) * scale + minimum;
  }
}

template <typename Expand>
void expand_blocks(Expand expand, BlockLayout layout, const std::byte* from, float* out, int64_t blocks) {
  for (int64_t i = 0; i < blocks; ++i) expand(from + i * layout.bytes, out + i * layout.elements);
}

}  // namespace

void dequantize(Encoding encoding, std::span<const std::byte> blocks, std::span<float> out) {
  const BlockLayout layout = layout_of(encoding);
  const auto bytes = static_cast<int64_t>(blocks.size());
  const auto elements = static_cast<int64_t>(out.size());
  require(bytes % layout.bytes == 0 && bytes / layout.bytes * layout.elements == elements,
          "{} bytes of {} were to be expanded to {} numbers", bytes, name_of(encoding), elements);
  if (elements == 0) return;
  const int64_t count = bytes / layout.bytes;
  switch (encoding) {
    case Encoding::f32:
      std::memcpy(out.data(), blocks.data(), blocks.size());
      return;
    case Encoding::f16:
      return expand_f16(blocks.data(), out.data(), elements);
    case Encoding::bf16:
      return expand_bf16(blocks.data(), out.data(), elements);
    case Encoding::q8_0:
      return expand_blocks(expand_q8_0, layout, blocks.data(), out.data(), count);
    case Encoding::q4_0:
      return expand_blocks(expand_q4_0, layout, blocks.data(), out.data(), count);
    case Encoding::q4_1:
      return expand_blocks(expand_q4_1, layout, blocks.data(), out.data(), count);
  }
}

}  // namespace shadowkv
