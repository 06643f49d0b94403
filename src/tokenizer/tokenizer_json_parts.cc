#include "tokenizer/tokenizer_json_parts.h"

#include <utility>

#include "tokenizer/known_patterns.h"
#include "tokenizer/regex_dialect.h"

namespace shadowkv {
namespace {

SplitBehavior parse_behavior(const JsonPart& part) {
  constexpr std::pair<std::string_view, SplitBehavior> kNames[] = {
      {"Isolated", SplitBehavior::isolated},
      {"Removed", SplitBehavior::removed},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous}};
  const std::string& name = get_string(part);
  for (const auto& [known, behavior] : kNames) {
    if (name == known) return behavior;
  }
  refuse(part, name);
}

void read_split(const JsonPart& part, TokenizerSpec& spec) {
  spec.pre_tokenizers.push_back({.kind = PreTokenizerStep::Kind::split,
                                 .pattern = read_pattern(get_field(part, "pattern")),
                                 .behavior = parse_behavior(get_field(part, "behavior")),
                                 .invert = get_bool(get_field(part, "invert"))});
}

void read_digits(const JsonPart& part, TokenizerSpec& spec) {
  const bool individual = get_bool(get_field(part, "individual_digits"));
  spec.pre_tokenizers.push_back(
      {.pattern = R"(\p{N})", .behavior = individual ? SplitBehavior::isolated : SplitBehavior::contiguous});
}

void read_byte_level(const JsonPart& part, TokenizerSpec& spec) {
  if (get_bool(get_field(part, "add_prefix_space"))) {
    spec.pre_tokenizers.push_back({.kind = PreTokenizerStep::Kind::prefix, .content = " "});
  }
  if (get_bool_or(part, "use_regex", true)) {
    spec.pre_tokenizers.push_back({.pattern = std::string(kGpt2Pattern)});
  }
}

void read_metaspace_steps(const JsonPart& part, TokenizerSpec& spec) {
  const MetaspaceFields fields = read_metaspace(part);
  spec.pre_tokenizers.push_back(
      {.kind = PreTokenizerStep::Kind::replace, .pattern = " ", .content = fields.replacement});
  if (fields.prepends) {
    spec.pre_tokenizers.push_back({.kind = PreTokenizerStep::Kind::prefix,
                                   .content = fields.replacement,
                                   .first_only = fields.first_only});
  }
  if (get_bool_or(part, "split", true)) {
    spec.pre_tokenizers.push_back(
        {.pattern = quote_pattern(fields.replacement), .behavior = SplitBehavior::merged_with_next});
  }
}

// Reads the steps in order; ByteLevel writes bytes in its own alphabet, so nothing can follow it.
void read_pre_tokenizer_steps(const JsonPart& part, TokenizerSpec& spec, bool& ended) {
  const std::string& type = get_string(get_field(part, "type"));
  if (type == "Sequence") {
    return for_each_element(part, "pretokenizers",
                            [&](const JsonPart& step) { read_pre_tokenizer_steps(step, spec, ended); });
  }
  require(!ended, "{} ({}) comes after ByteLevel, which must be the last step", part.name, in_quotes(type));
  if (type == "Split") return read_split(part, spec);
  if (type == "Digits") return read_digits(part, spec);
  if (type == "Metaspace") return read_metaspace_steps(part, spec);
  if (type != "ByteLevel") refuse(part, type);
  read_byte_level(part, spec);
  ended = true;
}

std::vector<int32_t> template_token_ids(const JsonPart& processor, const std::string& id,
                                        const TokenizerSpec& spec) {
  const JsonPart tokens = get_field(processor, "special_tokens");
  std::vector<int32_t> ids;
  for_each_element(get_field(tokens, id), "ids", [&](const JsonPart& element) {
    const int64_t value = get_integer(element);
    require(value >= 0 && value < static_cast<int64_t>(spec.tokens.size()),
            "{} is {}, outside of the vocabulary's ids (0 to {})", element.name, value,
            static_cast<int64_t>(spec.tokens.size()) - 1);
    ids.push_back(static_cast<int32_t>(value));
  });
  return ids;
}

// The ids go around those that an earlier processor put there.
void read_template(const JsonPart& part, TokenizerSpec& spec) {
  std::vector<int32_t> before, after;
  int texts = 0;
  for_each_element(part, "single", [&](const JsonPart& piece) {
    if (find_field(piece, "SpecialToken")) {
      const std::string& id = get_string(get_field(get_field(piece, "SpecialToken"), "id"));
      std::vector<int32_t>& side = texts == 0 ? before : after;
      for (const int32_t token : template_token_ids(part, id, spec)) side.push_back(token);
      return;
    }
    const std::string& id = get_string(get_field(get_field(piece, "Sequence"), "id"));
    if (id != "A") refuse(piece, id);
    ++texts;
  });
  require(texts == 1, "'single' of {} holds the text {} times; exactly one is supported", part.name, texts);
  spec.prefix.insert(spec.prefix.begin(), before.begin(), before.end());
  spec.suffix.insert(spec.suffix.end(), after.begin(), after.end());
}

void read_replace(const JsonPart& part, TokenizerSpec& spec) {
  spec.normalizers.push_back({.kind = NormalizerStep::Kind::replace,
                              .pattern = read_pattern(get_field(part, "pattern")),
                              .content = get_string(get_field(part, "content"))});
}

}  // namespace

void refuse(const JsonPart& part, std::string_view construct) {
  throw InvalidInput(fmt::format("{} is {}, which is not supported", part.name, in_quotes(construct)));
}

std::string read_pattern(const JsonPart& part) {
  if (find_field(part, "Regex")) return get_string(get_field(part, "Regex"));
  const std::string& text = get_string(get_field(part, "String"));
  require(!text.empty(), "{} is an empty string", part.name);
  return quote_pattern(text);
}

void read_normalizer(const JsonPart& part, TokenizerSpec& spec) {
  if (part.value.is_null()) return;
  const std::string& type = get_string(get_field(part, "type"));
  if (type == "NFC") {
    spec.normalizers.push_back({.kind = NormalizerStep::Kind::nfc});
  } else if (type == "NFKC") {
    spec.normalizers.push_back({.kind = NormalizerStep::Kind::nfkc});
  } else if (type == "Prepend") {
    spec.normalizers.push_back(
        {.kind = NormalizerStep::Kind::prepend, .content = get_string(get_field(part, "prepend"))});
  } else if (type == "Replace") {
    read_replace(part, spec);
  } else if (type == "Sequence") {
    for_each_element(part, "normalizers", [&](const JsonPart& step) { read_normalizer(step, spec); });
  } else {
    refuse(part, type);
  }
}

void read_pre_tokenizer(const JsonPart& part, TokenizerSpec& spec) {
  bool byte_level = false;
  if (!part.value.is_null()) read_pre_tokenizer_steps(part, spec, byte_level);
  spec.unit = byte_level ? SymbolUnit::byte : SymbolUnit::character;
}

void read_post_processor(const JsonPart& part, TokenizerSpec& spec) {
  if (part.value.is_null()) return;
  const std::string& type = get_string(get_field(part, "type"));
  if (type == "ByteLevel") return;  // moves offsets only
  if (type == "TemplateProcessing") return read_template(part, spec);
  if (type != "Sequence") refuse(part, type);
  for_each_element(part, "processors", [&](const JsonPart& step) { read_post_processor(step, spec); });
}

}  // namespace shadowkv
