// The parts of a tokenizer.json around its model. Each reader adds what it finds to the spec, or throws
// InvalidInput naming the construct that is not supported.
#pragma once

#include "tokenizer/json_fields.h"
#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

// Each part may be null but the decoder.
void read_normalizer(const JsonPart& part, TokenizerSpec& spec);
// Sets the unit: bytes where the last step is ByteLevel, else characters.
void read_pre_tokenizer(const JsonPart& part, TokenizerSpec& spec);
void read_post_processor(const JsonPart& part, TokenizerSpec& spec);
// Must fit the unit.
void read_decoder(const JsonPart& part, TokenizerSpec& spec);

[[noreturn]] void refuse(const JsonPart& part, std::string_view construct);

// A regular expression that matches what `part`, {"Regex": ..} or {"String": ..}, stands for.
[[nodiscard]] std::string read_pattern(const JsonPart& part);

// Applies `read` to every element of the array `key`.
template <typename Reader>
void for_each_element(const JsonPart& part, const char* key, Reader&& read) {
  const JsonPart list = get_field(part, key);
  size_t index = 0;
  for (const Json& element : get_array(list))
    read(JsonPart{element, fmt::format("{}[{}]", list.name, index++)});
}

// Metaspace: spaces are written as another character, also in front of a text.
struct MetaspaceFields {
  std::string replacement;  // one character
  bool prepends = true;
  bool first_only = false;  // prepends only to the piece that the text begins with
};
[[nodiscard]] MetaspaceFields read_metaspace(const JsonPart& part);

}  // namespace shadowkv
