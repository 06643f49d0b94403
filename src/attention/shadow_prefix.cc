// What is kept of a prompt for other sequences that begin with the same tokens. What a sparse sequence holds
// of its whole segments no later token changes, but for the ring: the one thing that is written down for each
// prefix while the layer's keys and values are still there.
#include <algorithm>
#include <utility>

#include "attention/shadow.h"
#include "base/check.h"

namespace shadowkv {

// Outliers are chosen among all chunks of a prompt: with them no prefix is what a shorter prompt leaves.
PrefixCuts ShadowAttention::prefix_cuts(int64_t tokens) const {
  if (tokens < config_.exact_below) {
    return {.every = exact_.block_tokens(), .least = exact_.block_tokens(), .serves_shorter = true};
  }
  if (index_->wants_outliers()) return {};
  return {.every = segments_.tokens(), .least = config_.exact_below};
}

void ShadowAttention::begin_prefix(SeqId from, SeqId to, int64_t tokens) {
  begin_by(to, {.prompt_tokens = tokens, .max_tokens = tokens}, prefill_->table(from));
  Sequence& source = sequences_.at(from);
  Sequence& prefix = sequences_.at(to);
  if (!prefix.sparse) return;
  prefix.opened_at = source.past == 0 ? tokens : source.opened_at;
  resident_.allocate(prefix.row, resident_bytes(), 0);
  source.prefixes.push_back(to);
}

int64_t ShadowAttention::resident_bytes() const {
  ResidentView resident{.kv_heads = shape_.kv_heads, .chunk = config_.chunk_size};
  resident.ring_tokens = config_.local_window + config_.chunk_size;
  resident.head_dim = shape_.head_dim;
  resident.dtype = shape_.compute;
  return shape_.layers * resident.layer_bytes(0);
}

void ShadowAttention::keep_prefixes(const Sequence& sequence, int64_t layer, const RawLayer& raw) {
  for (const SeqId id : sequence.prefixes) {
    if (const auto found = sequences_.find(id); found != sequences_.end())
      keep_prefix(found->second, layer, raw);
  }
}

// The first chunk and the latest tokens before the cut, in this order, as keep_resident() has them.
void ShadowAttention::keep_prefix(const Sequence& prefix, int64_t layer, const RawLayer& raw) {
  const ResidentView view = resident_view(layer);
  const int64_t tokens = prefix.plan.prompt_tokens;
  const int64_t head = std::min(tokens, config_.chunk_size);
  const int64_t tail = std::max<int64_t>(0, tokens - view.ring_tokens);
  for (const auto& [first, end] : {std::pair{int64_t{0}, head}, std::pair{tail, tokens}}) {
    const RawLayer part = raw.part(first, end - first);
    const int32_t* rows = prefix_rows_.of(device_.compute(), prefix.row, end - first);
    store_resident(device_.compute(),
                   {.k = part.k,
                    .v = part.v,
                    .tokens = {.count = end - first, .rows = rows, .positions = part.positions},
                    .resident = view});
  }
}

void ShadowAttention::end_prefix(SeqId from, SeqId to) {
  forget_failed_step();
  Sequence& source = sequences_.at(from);
  Sequence& prefix = sequences_.at(to);
  std::erase(source.prefixes, to);
  prefix.tokens = prefix.plan.prompt_tokens;
  share_prefix(source, prefix, prefix.tokens);
}

void ShadowAttention::share_prefix(const Sequence& from, const Sequence& to, int64_t max_tokens) {
  if (!to.sparse) return exact_.share(from.row, to.row, to.tokens);
  segments_.share(from.row, to.row, max_tokens);
  segments_.truncate(to.row, to.tokens);
  index_->share(from.row, to.row, to.tokens);
  keys_->share(from.row, to.row, to.tokens);
  values_.share(from.row, to.row, to.tokens);
}

// A prefix has no slots.
void ShadowAttention::fork_prefix(SeqId from, SeqId to, int64_t tokens, const SequencePlan& plan) {
  forget_failed_step();
  begin_by(to, plan, prefill_->table(from));
  const Sequence& source = sequences_.at(from);
  Sequence& sequence = sequences_.at(to);
  sequence.tokens = tokens;
  sequence.sparse = source.sparse;
  const int64_t max_tokens = std::max(tokens, plan.max_tokens);
  share_prefix(source, sequence, max_tokens);
  if (!source.sparse) return;
  fix_budget(sequence, source.opened_at);
  const int64_t slots = slot_count(sequence.budget, max_tokens);
  slots_.allocate(sequence.row, shape_.layers * slot_view(0).layer_bytes(slots), slots);
  resident_.copy(source.row, sequence.row);
}

// The table that its keys turn by, and, in sparse form, the tokens that it turned sparse with. Which segments
// have bases of their own its length says.
std::vector<int64_t> ShadowAttention::prefix_numbers(SeqId id) const {
  const Sequence& prefix = sequences_.at(id);
  const int64_t table = tables_.of(prefix.row);
  return prefix.sparse ? std::vector<int64_t>{table, prefix.opened_at} : std::vector<int64_t>{table};
}

void ShadowAttention::restore_prefix(SeqId to, int64_t tokens, const PrefixBeginning& beginning,
                                     std::span<const int64_t> numbers) {
  constexpr const char* kWrong =
      "a kept prefix of {} tokens does not say what shadow attention needs to know";
  const bool is_sparse = tokens >= config_.exact_below;
  require(numbers.size() == (is_sparse ? 2 : 1) && numbers[0] >= 0 && numbers[0] < shape_.rope.tables() &&
              tokens <= shape_.rope.reach(numbers[0]),
          kWrong, tokens);
  require(!is_sparse || (numbers[1] >= 1 && numbers[1] <= tokens), kWrong, tokens);
  begin_by(to, {.prompt_tokens = tokens, .max_tokens = tokens}, numbers[0]);
  Sequence& prefix = sequences_.at(to);
  const int64_t row = prefix.row;
  prefix.tokens = beginning.tokens;
  if (beginning.tokens > 0) share_prefix(sequences_.at(beginning.prefix), prefix, tokens);
  prefix.tokens = tokens;
  if (!is_sparse) return exact_.reserve(row, tokens);
  prefix.opened_at = numbers[1];
  beginning.tokens > 0 ? segments_.extend(row, beginning.tokens, tokens)
                       : segments_.begin(row, tokens, tokens);
  reserve_sparse(row, tokens);
  resident_.allocate(row, resident_bytes(), 0);
}

Footprint ShadowAttention::prefix_bytes(int64_t tokens, int64_t shared) const {
  if (tokens < config_.exact_below) {
    return {.device = exact_.bytes_for(tokens) - exact_.shared_bytes(shared)};
  }
  Footprint bytes;
  bytes.device = segments_.bytes_for(shared, tokens) + index_->bytes_for(tokens) -
                 index_->shared_bytes(shared) + keys_->bytes_for(tokens) - keys_->shared_bytes(shared) +
                 values_.scale_bytes_for(tokens) - values_.shared_scale_bytes(shared) + resident_bytes();
  (config_.placement == Placement::spill ? bytes.either : bytes.pinned_host) =
      values_.run_bytes_for(tokens) - values_.shared_run_bytes(shared);
  return bytes;
}

// Of what stays resident there is a copy for each prefix and one while it reads on.
int64_t ShadowAttention::prefix_working_bytes(int64_t tokens) const {
  if (tokens < config_.exact_below) return 0;
  return (1 + tokens / segments_.tokens()) * resident_bytes() + piece_bytes(tokens);
}

}  // namespace shadowkv
