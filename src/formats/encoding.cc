#include "formats/encoding.h"

#include <fmt/core.h>

#include <array>

namespace shadowkv {
namespace {

// Indexed by GGUF's type number; empty where the format has retired or never given the number.
constexpr std::array<std::string_view, 40> kGgufTypeNames = {
    "F32",    "F16",   "Q4_0",  "Q4_1",   "",      "",      "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
    "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
    "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
    "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4"};

}  // namespace

std::string_view name_of(Encoding encoding) {
  return kGgufTypeNames[static_cast<std::size_t>(encoding)];
}

BlockLayout layout_of(Encoding encoding) {
  switch (encoding) {
    case Encoding::f32:
      return {1, 4};
    case Encoding::f16:
    case Encoding::bf16:
      return {1, 2};
    case Encoding::q4_0:
      return {32, 2 + 16};  // f16 scale, 32 nibbles
    case Encoding::q4_1:
      return {32, 2 + 2 + 16};  // f16 scale, f16 minimum, 32 nibbles
    case Encoding::q5_0:
      return {32, 2 + 4 + 16};  // f16 scale, 32 fifth bits, 32 nibbles
    case Encoding::q5_1:
      return {32, 2 + 2 + 4 + 16};  // f16 scale, f16 minimum, 32 fifth bits, 32 nibbles
    case Encoding::q8_0:
      return {32, 2 + 32};  // f16 scale, 32 signed bytes
    case Encoding::q4_k:
      return {256, 2 + 2 + 12 + 128};  // f16 scale of scales and of minima, 8 of each in 6 bits, nibbles
    case Encoding::q5_k:
      return {256, 2 + 2 + 12 + 32 + 128};  // the same, fifth bits before the nibbles
    case Encoding::q6_k:
      return {256, 128 + 64 + 16 + 2};  // nibbles, pairs of high bits, 16 signed scales, f16 scale of those
    case Encoding::iq4_nl:
      return {32, 2 + 16};  // f16 scale, 32 nibbles that number a table's entries
  }
  return {};
}

bool is_supported_gguf_type(uint32_t number) {
  return layout_of(static_cast<Encoding>(number)).bytes > 0;
}

std::string gguf_type_name(uint32_t number) {
  if (number < kGgufTypeNames.size() && !kGgufTypeNames[number].empty())
    return std::string(kGgufTypeNames[number]);
  return fmt::format("number {}", number);
}

std::string supported_gguf_types() {
  std::string names;
  for (uint32_t number = 0; number < kGgufTypeNames.size(); ++number) {
    if (!is_supported_gguf_type(number)) continue;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", kGgufTypeNames[number]);
  }
  return names;
}

}  // namespace shadowkv
