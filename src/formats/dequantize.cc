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

// A block's nibbles, low ones first, with a fifth bit each: bit i of `high` is element i's.
template <typename Store>
void for_five_bits(const std::byte* quants, uint32_t high, Store store) {
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    const unsigned byte = load<uint8_t>(quants + i);
    store(i, static_cast<int>((byte & 15) | (high >> i & 1) << 4));
    store(i + kBlock / 2, static_cast<int>(byte >> 4 | (high >> (i + kBlock / 2) & 1) << 4));
  }
}

// Block: scale, fifth bits, nibbles; each number stored plus 16.
void expand_q5_0(const std::byte* block, float* out) {
  const float scale = half_to_float(load<uint16_t>(block));
  for_five_bits(block + 6, load<uint32_t>(block + 2),
                [&](int64_t i, int x) { out[i] = static_cast<float>(x - 16) * scale; });
}

// Block: scale, minimum, fifth bits, nibbles.
void expand_q5_1(const std::byte* block, float* out) {
  const float scale = half_to_float(load<uint16_t>(block));
  const float minimum = half_to_float(load<uint16_t>(block + 2));
  for_five_bits(block + 8, load<uint32_t>(block + 4),
                [&](int64_t i, int x) { out[i] = static_cast<float>(x) * scale + minimum; });
}

// Block: scale, nibbles that number the entries of a table which is denser around zero.
void expand_iq4_nl(const std::byte* block, float* out) {
  constexpr int8_t kNumbers[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  const float scale = half_to_float(load<uint16_t>(block));
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    const unsigned byte = load<uint8_t>(block + 2 + i);
    out[i] = static_cast<float>(kNumbers[byte & 15]) * scale;
    out[i + kBlock / 2] = static_cast<float>(kNumbers[byte >> 4]) * scale;
  }
}

// ---- blocks of 256 in groups of 32 (Q4_K, Q5_K) or 16 (Q6_K) with a scale of their own ----

constexpr int64_t kGroups = 8;  // of 32

// Scale and minimum of group g, 6 bits each in 12 bytes: the first four lie in a byte each, the others have
// their low four bits in bytes 8 .. 11 and their high two above those of the first four.
struct GroupScale {
  float scale;
  float minimum;
};
GroupScale group_scale(const std::byte* block, int64_t g) {
  const std::byte* packed = block + 4;
  const auto at = [&](int64_t i) { return load<uint8_t>(packed + i); };
  const int scale = g < 4 ? at(g) & 63 : (at(g + 4) & 15) | at(g - 4) >> 6 << 4;
  const int minimum = g < 4 ? at(g + 4) & 63 : at(g + 4) >> 4 | at(g) >> 6 << 4;
  return {half_to_float(load<uint16_t>(block)) * static_cast<float>(scale),
          half_to_float(load<uint16_t>(block + 2)) * static_cast<float>(minimum)};
}

// Groups 2 j and 2 j + 1 share 32 bytes, low nibbles first. high: of each byte, bit g is the fifth of group
// g's number; null where there are none.
void expand_groups(const std::byte* block, const std::byte* high, const std::byte* nibbles, float* out) {
  for (int64_t g = 0; g < kGroups; ++g) {
    const GroupScale group = group_scale(block, g);
    for (int64_t i = 0; i < kBlock; ++i) {
      const int byte = load<uint8_t>(nibbles + g / 2 * kBlock + i);
      const int fifth = high == nullptr ? 0 : (load<uint8_t>(high + i) >> g & 1) << 4;
      const int x = (g % 2 == 0 ? byte & 15 : byte >> 4) | fifth;
      out[g * kBlock + i] = static_cast<float>(x) * group.scale - group.minimum;
    }
  }
}

void expand_q4_k(const std::byte* block, float* out) {
  expand_groups(block, nullptr, block + 16, out);
}
void expand_q5_k(const std::byte* block, float* out) {
  expand_groups(block, block + 16, block + 48, out);
}

// Halves of 128: numbers 32 q .. 32 q + 31 of a half take the low (q below 2) or high nibbles of its 64 bytes
// and bits 2 q and 2 q + 1 of its 32 bytes of high bits. Stored plus 32; sixteen numbers share a scale.
void expand_q6_k(const std::byte* block, float* out) {
  const float all = half_to_float(load<uint16_t>(block + 208));
  for (int64_t i = 0; i < 256; ++i) {
    const int64_t half = i / 128, quarter = i / 32 % 4, place = i % 32;
    const int nibbles = load<uint8_t>(block + half * 64 + quarter % 2 * 32 + place);
    const int high = load<uint8_t>(block + 128 + half * 32 + place) >> (2 * quarter) & 3;
    const int x = (quarter < 2 ? nibbles & 15 : nibbles >> 4) | high << 4;
    const float scale = all * static_cast<float>(load<int8_t>(block + 192 + i / 16));
    out[i] = static_cast<float>(x - 32) * scale;
  }
}

using ExpandBlock = void (*)(const std::byte* block, float* out);

// Of encodings in blocks; null for plain numbers.
ExpandBlock expander_of(Encoding encoding) {
  switch (encoding) {
    case Encoding::f32:
    case Encoding::f16:
    case Encoding::bf16:
      return nullptr;
    case Encoding::q8_0:
      return expand_q8_0;
    case Encoding::q4_0:
      return expand_q4_0;
    case Encoding::q4_1:
      return expand_q4_1;
    case Encoding::q5_0:
      return expand_q5_0;
    case Encoding::q5_1:
      return expand_q5_1;
    case Encoding::q4_k:
      return expand_q4_k;
    case Encoding::q5_k:
      return expand_q5_k;
    case Encoding::q6_k:
      return expand_q6_k;
    case Encoding::iq4_nl:
      return expand_iq4_nl;
  }
  return nullptr;
}

}  // namespace

void dequantize(Encoding encoding, std::span<const std::byte> blocks, std::span<float> out) {
  const BlockLayout layout = layout_of(encoding);
  const auto bytes = static_cast<int64_t>(blocks.size());
  const auto elements = static_cast<int64_t>(out.size());
  require(bytes % layout.bytes == 0 && bytes / layout.bytes * layout.elements == elements,
          "{} bytes of {} were to be expanded to {} numbers", bytes, name_of(encoding), elements);
  if (elements == 0) return;
  if (encoding == Encoding::f32) {
    std::memcpy(out.data(), blocks.data(), blocks.size());
  } else if (encoding == Encoding::f16) {
    expand_f16(blocks.data(), out.data(), elements);
  } else if (encoding == Encoding::bf16) {
    expand_bf16(blocks.data(), out.data(), elements);
  } else {
    const ExpandBlock expand = expander_of(encoding);
    for (int64_t i = 0; i < bytes / layout.bytes; ++i)
      expand(blocks.data() + i * layout.bytes, out.data() + i * layout.elements);
  }
}

}  // namespace shadowkv
