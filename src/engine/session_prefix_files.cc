// Prefixes to files and back. What one shares with another it begins with is in that one's file: each file
// holds the blocks that no earlier one does.
#include <algorithm>
#include <unordered_set>

#include "base/check.h"
#include "engine/session.h"
#include "formats/quote.h"

namespace shadowkv {

StateDescription ModelSession::describe_prefix(SequenceId prefix, std::span<const int32_t> ids,
                                               std::string_view note) {
  StateDescription described = description(held_by(at(prefix)));
  described.ids = std::ssize(ids);
  described.note_bytes = std::ssize(note);
  described.numbers = attention_->prefix_numbers(prefix);
  return described;
}

// Blocks that are shared lie at one place for both.
std::vector<MemoryPiece> ModelSession::prefix_memory(SequenceId prefix,
                                                     const PrefixBeginning& beginning) const {
  std::vector<MemoryPiece> memory = attention_->saved_memory(prefix);
  if (beginning.tokens == 0) return memory;
  std::unordered_set<const std::byte*> shared;
  for (const MemoryPiece& piece : attention_->saved_memory(beginning.prefix)) shared.insert(piece.data);
  std::erase_if(memory, [&](const MemoryPiece& piece) { return shared.contains(piece.data); });
  return memory;
}

SequenceId ModelSession::restore_prefix(const StateReader& file, const PrefixBeginning& beginning,
                                        std::optional<int64_t> rope_table) {
  const StateDescription& kept = file.description();
  check_belongs(kept, file.name());
  require(kept.tokens > beginning.tokens && kept.tokens <= model_.context && kept.ids == kept.tokens,
          "{} holds {} tokens of {} ids, behind {}", file.name(), kept.tokens, kept.ids, beginning.tokens);
  const SequenceId id = add(kept.tokens);
  try {
    run([&] { attention_->restore_prefix(id, kept.tokens, beginning, kept.numbers); });
    require(prefill_->table(id) == rope_table.value_or(prefill_->table(id)),
            "{} turns its positions by another table", file.name());
    const int64_t named = kept.ids * size_of(DType::i32) + kept.note_bytes;
    const int64_t needed = named + bytes_of(prefix_memory(id, beginning));
    require(needed == file.content_bytes(), "{} has a content of {} bytes, such a prefix of {} tokens {}",
            file.name(), file.content_bytes(), kept.tokens, needed);
  } catch (...) {
    remove(id);
    throw;
  }
  at(id).tokens.assign(static_cast<std::size_t>(methods_), kept.tokens);
  return id;
}

}  // namespace shadowkv
