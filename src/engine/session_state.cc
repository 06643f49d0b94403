// Sequences to files and back.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>

#include "base/check.h"
#include "base/checksum.h"
#include "engine/session.h"
#include "engine/state_transfer.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

// Items of a list "a,b,..." that the other lacks.
std::string items_without(std::string_view list, std::string_view other) {
  const std::string all = fmt::format(",{},", other);
  std::string left;
  while (!list.empty()) {
    const std::string_view item = list.substr(0, list.find(','));
    if (all.find(fmt::format(",{},", item)) == std::string::npos) {
      left += fmt::format("{}{}", left.empty() ? "" : ",", item);
    }
    list.remove_prefix(std::min(list.size(), item.size() + 1));
  }
  return left;
}

}  // namespace

std::string text_of_results(const AttentionConfig& config) {
  constexpr std::array<std::string_view, 4> kTimeOnly = {"slot-selections", "step-parts", "micro-batches",
                                                         "placement"};
  constexpr std::array<std::string_view, 2> kOfFull = {"method", "values"};
  std::string text;
  for (const AttentionOption& option : list_options(config)) {
    const bool counts = config.method == Method::full
                            ? std::ranges::find(kOfFull, option.name) != kOfFull.end()
                            : std::ranges::find(kTimeOnly, option.name) == kTimeOnly.end();
    if (counts) text += fmt::format("{}{}={}", text.empty() ? "" : ",", option.name, option.value);
  }
  return text;
}

// Of what keys are made by: the same weights turn otherwise once the rule in config.json is another.
std::string ModelSession::fingerprint() {
  if (!fingerprint_.empty()) return fingerprint_;
  const RopeConfig& rope = prefill_->shape().rope;
  std::vector<float> turns = frequency_tables(rope);
  turns.push_back(static_cast<float>(rope.magnitude));
  for (int64_t table = 0; table < rope.tables(); ++table)
    turns.push_back(static_cast<float>(rope.reach(table)));
  fingerprint_ =
      fmt::format("{:016x}", checksum(std::as_bytes(std::span(turns)), transformer_.fingerprint()));
  return fingerprint_;
}

// Without what is the sequence's own.
StateDescription ModelSession::description(int64_t tokens) {
  return {.model = model_.name,
          .fingerprint = fingerprint(),
          .dtype = std::string(name_of(prefill_->shape().compute)),
          .attention = attention_text_,
          .tokens = tokens,
          .numbers = {}};
}

StateDescription ModelSession::describe(SequenceId id, const StateContents& contents) {
  StateDescription described = description(held_by(at(id)));
  described.ids = std::ssize(contents.ids);
  described.note_bytes = std::ssize(contents.note);
  described.numbers = attention_->saved_numbers(id);
  return described;
}

void ModelSession::save_state(SequenceId id, const std::filesystem::path& path,
                              const StateContents& contents) {
  const int64_t held = held_by(at(id));
  require(methods_ == 1, "a state is saved under one method alone, not {}", methods_);
  require(held > 0 && !readings_.contains(id), "sequence {} holds nothing that could be saved", id);
  require(contents.held == held && std::ssize(contents.ids) >= held,
          "{} ids, {} of them held, were given to save a sequence of {} tokens", contents.ids.size(),
          contents.held, held);
  constexpr std::size_t kMostNote = 64 << 20;
  require(contents.note.size() <= kMostNote, "a note of {} bytes was given to a saved state, which takes {}",
          contents.note.size(), kMostNote);
  run([&] {
    const std::vector<MemoryPiece> pieces =
        state_content(contents.ids, contents.note, attention_->saved_memory(id));
    StateWriter writer(path, describe(id, contents), bytes_of(pieces));
    save_content(writer, pieces, device_);
    writer.commit();
  });
}

// One line that names both.
void ModelSession::check_belongs(const StateDescription& state, const std::string& file) {
  require(state.fingerprint == fingerprint(),
          "{} is a state of the model {} with weights and positions {}, not of {} with {}", file,
          in_quotes(state.model), printable(state.fingerprint), in_quotes(model_.name), fingerprint());
  const std::string_view dtype = name_of(prefill_->shape().compute);
  require(state.dtype == dtype,
          "{} is a state of {} computation, this engine's is {}; load the model as that", file,
          printable(state.dtype), dtype);
  require(state.attention == attention_text_, "{} is a state under {}, this engine attends with {}", file,
          printable(items_without(state.attention, attention_text_), 600),
          items_without(attention_text_, state.attention));
}

StateContents ModelSession::load_state(SequenceId id, const std::filesystem::path& path) {
  require(methods_ == 1, "a state is loaded under one method alone, not {}", methods_);
  require(held_by(at(id)) == 0 && !readings_.contains(id), "sequence {} holds tokens already", id);
  const StateReader reader(path);
  check_belongs(reader.description(), printable(path.string(), 400));
  try {
    return run([&] { return restore(id, reader); });
  } catch (...) {
    attention_->end(id);
    throw;
  }
}

StateContents ModelSession::restore(SequenceId id, const StateReader& reader) {
  const StateDescription& state = reader.description();
  Sequence& sequence = at(id);
  const SequencePlan plan{.prompt_tokens = state.tokens, .max_tokens = sequence.max_tokens};
  require(state.tokens <= sequence.max_tokens, "a state of {} tokens was to fill a sequence of at most {}",
          state.tokens, sequence.max_tokens);
  const int64_t named = state.ids * size_of(DType::i32) + state.note_bytes;
  const int64_t needed = named + attention_->saved_bytes(plan, state.numbers);
  require(needed == reader.content_bytes(),
          "a saved state has a content of {} bytes, one of {} tokens has {}", reader.content_bytes(),
          state.tokens, needed);
  check_room(attention_->peak(plan), 0, sequence.max_tokens);
  StateContents contents{.ids = std::vector<int32_t>(static_cast<std::size_t>(state.ids)),
                         .held = state.tokens,
                         .note = std::string(static_cast<std::size_t>(state.note_bytes), '\0')};
  attention_->restore(id, plan, state.numbers);
  contents.max_tokens = sequence.max_tokens = std::min(sequence.max_tokens, reach(id));
  load_content(reader, state_content(contents.ids, contents.note, attention_->saved_memory(id)), device_);
  for (const int32_t token : contents.ids) {
    require(token >= 0 && token < model_.vocab_size, "a saved state has a token {}, the vocabulary {}", token,
            model_.vocab_size);
  }
  sequence.tokens.assign(1, state.tokens);
  return contents;
}

StateInfo read_state_info(const std::filesystem::path& path) {
  const StateReader reader(path);
  const StateDescription& state = reader.description();
  return {.model = state.model,
          .dtype = state.dtype,
          .attention = state.attention,
          .tokens = state.tokens,
          .bytes = reader.content_bytes()};
}

}  // namespace shadowkv
