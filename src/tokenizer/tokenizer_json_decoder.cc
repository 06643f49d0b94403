#include "base/utf8.h"
#include "tokenizer/regex_dialect.h"
#include "tokenizer/tokenizer_json_parts.h"

namespace shadowkv {
namespace {

// What of a decoder's steps has been read; they are supported in this order.
enum class Stage : uint8_t { tokens, bytes, text };

void require_character(const JsonPart& part) {
  const std::string& text = get_string(part);
  require(!text.empty() && read_utf8(text).length == static_cast<int64_t>(text.size()),
          "{} ({}) is not one character", part.name, in_quotes(text));
}

void enter(Stage next, const JsonPart& part, std::string_view type, Stage& stage) {
  constexpr std::string_view kNames[] = {"the steps for single tokens", "ByteFallback", "Fuse"};
  require(stage <= next, "{} ({}) comes after {}, which is not supported", part.name, in_quotes(type),
          kNames[static_cast<size_t>(stage)]);
  stage = next;
}

void read_replace(const JsonPart& part, DecoderSpec& decoder) {
  const std::string& content = get_string(get_field(part, "content"));
  decoder.replacements.push_back({read_pattern(get_field(part, "pattern")), content, content});
}

// The character that stands for spaces is left out in the first token, wherever it stands there.
void read_metaspace_step(const JsonPart& part, DecoderSpec& decoder) {
  const MetaspaceFields fields = read_metaspace(part);
  decoder.replacements.push_back({quote_pattern(fields.replacement), " ", fields.prepends ? "" : " "});
}

void read_strip(const JsonPart& part, Stage stage, DecoderSpec& decoder) {
  require(stage == Stage::text && decoder.strip.empty(),
          "{} (\"Strip\") does not follow Fuse as the last step, which is not supported", part.name);
  const JsonPart content = get_field(part, "content");
  require_character(content);
  const int64_t stop = get_integer(get_field(part, "stop"));
  require(stop == 0, "'stop' of {} is {}; only 0 is supported", part.name, stop);
  const JsonPart start = get_field(part, "start");
  decoder.strip = get_string(content);
  decoder.strip_count = get_integer(start);
  require(decoder.strip_count >= 0, "{} is {}, which is negative", start.name, decoder.strip_count);
}

void read_steps(const JsonPart& part, Stage& stage, DecoderSpec& decoder) {
  const std::string& type = get_string(get_field(part, "type"));
  if (type == "Sequence") {
    for_each_element(part, "decoders", [&](const JsonPart& step) { read_steps(step, stage, decoder); });
  } else if (type == "Replace") {
    enter(Stage::tokens, part, type, stage);
    read_replace(part, decoder);
  } else if (type == "Metaspace") {
    enter(Stage::tokens, part, type, stage);
    read_metaspace_step(part, decoder);
  } else if (type == "ByteFallback") {
    enter(Stage::bytes, part, type, stage);
    decoder.byte_fallback = true;
  } else if (type == "Fuse") {
    enter(Stage::text, part, type, stage);
  } else if (type == "Strip") {
    read_strip(part, stage, decoder);
  } else {
    refuse(part, type);
  }
}

int count_byte_level(const JsonPart& part) {
  const std::string& type = get_string(get_field(part, "type"));
  if (type == "ByteLevel") return 1;
  if (type != "Sequence") refuse(part, type);
  int count = 0;
  for_each_element(part, "decoders", [&](const JsonPart& decoder) { count += count_byte_level(decoder); });
  return count;
}

}  // namespace

MetaspaceFields read_metaspace(const JsonPart& part) {
  const JsonPart replacement = get_field(part, "replacement");
  require_character(replacement);
  MetaspaceFields fields{.replacement = get_string(replacement)};
  // Older files say add_prefix_space alone.
  const bool old_prefix = get_bool_or(part, "add_prefix_space", true);
  if (!find_field(part, "prepend_scheme")) {
    fields.prepends = old_prefix;
    return fields;
  }
  const JsonPart scheme = get_field(part, "prepend_scheme");
  const std::string& name = get_string(scheme);
  if (name != "first" && name != "always" && name != "never") refuse(scheme, name);
  fields.prepends = name != "never";
  fields.first_only = name == "first";
  require(old_prefix || !fields.prepends, "{} is {} though 'add_prefix_space' is false", scheme.name,
          in_quotes(name));
  return fields;
}

void read_decoder(const JsonPart& part, TokenizerSpec& spec) {
  if (spec.unit == SymbolUnit::byte) {
    const int count = part.value.is_null() ? 0 : count_byte_level(part);
    return require(count == 1, "{} holds ByteLevel {} times; exactly one is supported", part.name, count);
  }
  require(!part.value.is_null(), "{} is missing; without one, tokens would have spaces between them",
          part.name);
  const std::string& type = get_string(get_field(part, "type"));
  require(type != "ByteLevel", "{} is ByteLevel, but the pre_tokenizer does not end with ByteLevel",
          part.name);
  Stage stage = Stage::tokens;
  read_steps(part, stage, spec.decoder);
}

}  // namespace shadowkv
