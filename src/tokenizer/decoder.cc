#include "tokenizer/decoder.h"

#include <algorithm>

#include "base/check.h"
#include "base/utf8.h"
#include "tokenizer/regex_parts.h"

namespace shadowkv {
namespace {

constexpr std::string_view kReplacementCharacter = "\uFFFD";

}  // namespace

Decoder::Decoder(const TokenizerSpec& spec) : spec_(spec) {
  for (const DecoderReplacement& step : spec.decoder.replacements) {
    patterns_.emplace_back(step.pattern);
    first_differs_ = first_differs_ || step.first_content != step.content;
  }
  if (!patterns_.empty() || spec.decoder.byte_fallback) build_texts();
}

void Decoder::build_texts() {
  texts_.resize(spec_.tokens.size());
  is_byte_.assign(spec_.tokens.size(), false);
  int64_t room = kMaxTextBytes;
  for (size_t id = 0; id < texts_.size(); ++id) {
    texts_[id] = replaced(static_cast<int32_t>(id), false);
    room -= static_cast<int64_t>(texts_[id].size());
    require(room >= 0, "{}: the decoder makes the vocabulary longer than {} bytes", spec_.origin,
            kMaxTextBytes);
    const int byte = byte_in(texts_[id]);
    if (byte < 0) continue;
    is_byte_[id] = true;
    texts_[id].assign(1, static_cast<char>(byte));
  }
}

Decoder::Token Decoder::token(int32_t id) const {
  const auto index = static_cast<size_t>(id);
  if (texts_.empty()) return {spec_.tokens[index].bytes};
  return {texts_[index], is_byte_[index]};
}

std::string Decoder::replaced(int32_t id, bool is_first) const {
  std::string text = spec_.tokens[static_cast<size_t>(id)].bytes;
  for (size_t i = 0; i < patterns_.size(); ++i) {
    const DecoderReplacement& step = spec_.decoder.replacements[i];
    Regex::Scratch scratch(patterns_[i]);
    text = replace_matches(patterns_[i], text, is_first ? step.first_content : step.content, kMaxTextBytes,
                           scratch);
  }
  return text;
}

int Decoder::byte_in(std::string_view text) const {
  return spec_.decoder.byte_fallback ? byte_of_token(text) : -1;
}

void Decoder::add(int32_t id, DecodeState& state, std::string& text) const {
  const bool is_first = !state.started;
  state.started = true;
  Token token = this->token(id);
  if (spec_.unit == SymbolUnit::byte) {
    state.pending += token.bytes;
    state.pending.erase(0, static_cast<size_t>(append_lossy_utf8(text, state.pending, true)));
    return;
  }
  std::string first;
  if (is_first && first_differs_ && !token.is_byte) {
    first = replaced(id, true);
    token.bytes = first;
  }
  if (token.is_byte) {
    state.pending += token.bytes;
  } else {
    end_bytes(state, text);
    add_text(token.bytes, state, text);
  }
}

void Decoder::finish(DecodeState& state, std::string& text) const {
  if (spec_.unit == SymbolUnit::byte) {
    append_lossy_utf8(text, state.pending, false);
    state.pending.clear();
  } else {
    end_bytes(state, text);
  }
}

void Decoder::end_bytes(DecodeState& state, std::string& text) const {
  if (state.pending.empty()) return;
  std::string run;
  if (find_invalid_utf8(state.pending)) {
    for (size_t i = 0; i < state.pending.size(); ++i) run += kReplacementCharacter;
  } else {
    run = state.pending;
  }
  state.pending.clear();
  add_text(run, state, text);
}

void Decoder::add_text(std::string_view token, DecodeState& state, std::string& text) const {
  const DecoderSpec& decoder = spec_.decoder;
  while (state.stripped < decoder.strip_count && token.starts_with(decoder.strip)) {
    token.remove_prefix(decoder.strip.size());
    ++state.stripped;
  }
  if (!token.empty()) state.stripped = decoder.strip_count;  // only a beginning is stripped
  text += token;
}

}  // namespace shadowkv
