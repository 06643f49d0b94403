// What is saved of a sequence: all but its slots, which change time and never a result.
#include <algorithm>

#include "attention/shadow.h"
#include "base/check.h"

namespace shadowkv {

// As numbers: whether it is sparse, plus twice the table that its keys turn by, and then budget, candidates,
// outliers, and first and end of each fitted segment.
struct ShadowAttention::Saved {
  bool is_sparse = false;
  int64_t table = 0;
  int64_t budget = 0, candidates = 0, outliers = 0;
  std::vector<Segments::Range> fitted;
};

std::vector<int64_t> ShadowAttention::saved_numbers(SeqId id) const {
  const Sequence& sequence = sequences_.at(id);
  const int64_t table = 2 * tables_.of(sequence.row);
  if (!sequence.sparse) return {table};
  std::vector<int64_t> numbers = {table + 1, sequence.budget, sequence.candidates,
                                  resident_.count(sequence.row)};
  for (const Segments::Range& range : segments_.fitted(sequence.row)) {
    numbers.push_back(range.first);
    numbers.push_back(range.end);
  }
  return numbers;
}

ShadowAttention::Saved ShadowAttention::saved_of(const SequencePlan& plan,
                                                 std::span<const int64_t> numbers) const {
  constexpr const char* kWrong = "a saved state does not say what shadow attention needs to know: {}";
  const int64_t tokens = plan.prompt_tokens;
  const RopeConfig& rope = shape_.rope;
  require(!numbers.empty() && numbers[0] >= 0 && numbers[0] < 2 * rope.tables(), kWrong, "its form");
  Saved saved{.is_sparse = numbers[0] % 2 == 1, .table = numbers[0] / 2, .fitted = {}};
  require(tokens <= rope.reach(saved.table), kWrong, "positions that its length has not");
  // A step turns a sequence sparse before its token counts.
  require(saved.is_sparse ? tokens + 1 >= config_.exact_below : tokens < config_.exact_below, kWrong,
          "a form that its length has not");
  require(numbers.size() == 1 || (saved.is_sparse && numbers.size() % 2 == 0), kWrong, "its segments");
  if (!saved.is_sparse) return saved;
  require(numbers.size() >= 4, kWrong, "its segments");
  const int64_t chunks = ceil_div(std::max(tokens, plan.max_tokens), config_.chunk_size);
  saved.budget = std::min(numbers[1], chunks);  // all that it can choose from, with less room than before
  saved.candidates = std::min(numbers[2], chunks);
  saved.outliers = numbers[3];
  for (std::size_t i = 4; i < numbers.size(); i += 2) saved.fitted.push_back({numbers[i], numbers[i + 1]});
  require(segments_.can_hold(saved.fitted, tokens), kWrong, "its segments");
  require(saved.budget >= 1 && saved.candidates >= 1, kWrong, "its budget");
  require(saved.outliers >= 0 && saved.outliers <= outliers_for(std::ssize(saved.fitted)), kWrong,
          "its outliers");
  return saved;
}

int64_t ShadowAttention::saved_bytes(const SequencePlan& plan, std::span<const int64_t> numbers) const {
  const Saved saved = saved_of(plan, numbers);
  const int64_t tokens = plan.prompt_tokens;
  if (!saved.is_sparse) return exact_.memory_bytes(tokens);
  ResidentView resident{.kv_heads = shape_.kv_heads, .chunk = config_.chunk_size};
  resident.ring_tokens = config_.local_window + config_.chunk_size;
  resident.head_dim = shape_.head_dim;
  resident.dtype = shape_.compute;
  return index_->memory_bytes(tokens) + keys_->memory_bytes(tokens) + values_.memory_bytes(tokens) +
         segments_.memory_bytes(std::ssize(saved.fitted)) +
         shape_.layers * resident.layer_bytes(saved.outliers);
}

std::vector<MemoryPiece> ShadowAttention::saved_memory(SeqId id) {
  const Sequence& sequence = sequences_.at(id);
  const int64_t row = sequence.row, tokens = sequence.tokens;
  std::vector<MemoryPiece> memory;
  if (!sequence.sparse) {
    exact_.add_memory(row, tokens, memory);
    return memory;
  }
  segments_.add_memory(row, memory);
  memory.push_back(resident_.memory(row));
  index_->add_memory(row, tokens, memory);
  keys_->add_memory(row, tokens, memory);
  values_.add_memory(row, tokens, memory);
  return memory;
}

void ShadowAttention::restore(SeqId id, const SequencePlan& plan, std::span<const int64_t> numbers) {
  Saved saved = saved_of(plan, numbers);
  begin_by(id, plan, saved.table);
  Sequence& sequence = sequences_.at(id);
  sequence.tokens = plan.prompt_tokens;
  sequence.sparse = saved.is_sparse;
  if (!saved.is_sparse) return exact_.reserve(sequence.row, sequence.tokens);
  sequence.budget = saved.budget;
  sequence.candidates = saved.candidates;
  const int64_t max_tokens = std::max(sequence.tokens, plan.max_tokens);
  segments_.restore(sequence.row, std::move(saved.fitted), max_tokens);
  reserve_sparse(sequence.row, sequence.tokens);
  open_regions(sequence, max_tokens, saved.outliers);
}

}  // namespace shadowkv
