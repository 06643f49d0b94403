// How the numbers of a tensor lie in a file: plain floats, or blocks of 32 or 256 that share scales.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shadowkv {

// Element encodings that the readers understand; the numbers are GGUF's, the names those of the format.
enum class Encoding : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  bf16 = 30
};

[[nodiscard]] std::string_view name_of(Encoding encoding);

// `elements` consecutive numbers of a row take `bytes` bytes; a row holds whole blocks.
struct BlockLayout {
  int64_t elements = 1;
  int64_t bytes = 0;
};
[[nodiscard]] BlockLayout layout_of(Encoding encoding);

// Whether GGUF's type number is one of Encoding's.
[[nodiscard]] bool is_supported_gguf_type(uint32_t number);
// The format's name of a type number ("Q4_K"), supported or not; "number 77" when the format has none.
[[nodiscard]] std::string gguf_type_name(uint32_t number);
// "F32, F16, ...": for messages that refuse another.
[[nodiscard]] std::string supported_gguf_types();

}  // namespace shadowkv
