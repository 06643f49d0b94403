#include "engine/session.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "shadowkv/device_lost.h"

namespace shadowkv {
AttentionShape attention_shape(const ModelConfig& config, DType compute) {
  return {.layers = config.layers,
          .heads = config.heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .rope = config.rope,
          .compute = compute};
}

ModelSession::ModelSession(const ModelConfig& model, DType compute, Transformer& transformer, Device& device,
                           std::span<const AttentionConfig> methods)
    : model_(model),
      transformer_(transformer),
      device_(device),
      prefill_(std::make_shared<ExactPrefill>(attention_shape(model, compute), device)),
      methods_(static_cast<int64_t>(methods.size())),
      sampling_(device) {
  std::vector<std::unique_ptr<Attention>> made;
  for (const AttentionConfig& config : methods) {
    const AttentionConfig resolved = shadowkv::resolve(config, prefill_->shape(), model.context, nullptr);
    made.push_back(make_attention(resolved, prefill_->shape(), prefill_, device));
    attention_text_ = methods.size() == 1 ? text_of_results(resolved) : "";
  }
  attention_ = std::make_unique<SharedPrefill>(prefill_, std::move(made));
}

ModelSession::~ModelSession() {
  try {
    if (times_ops_) device_.stop_op_clock();
  } catch (const DeviceFailure&) {
    // A GPU that failed has been reported by whoever used it; nothing of it is left to be stopped.
  }
}

ModelSession::Sequence& ModelSession::at(SequenceId id) {
  const auto found = sequences_.find(id);
  require(found != sequences_.end(), "sequence {} is unknown; add it first", id);
  return found->second;
}

void ModelSession::check_length(int64_t max_tokens) const {
  require(
      max_tokens >= 1 && max_tokens <= model_.context,
      "a sequence of {} tokens was asked for, the model's context is {}; shorten the prompt or the answer",
      max_tokens, model_.context);
}

// Most tokens for which the rule of its positions, fixed when it began, holds.
int64_t ModelSession::reach(SequenceId id) const {
  return prefill_->shape().rope.reach(prefill_->table(id));
}

SequenceId ModelSession::add(int64_t max_tokens) {
  check_length(max_tokens);
  sequences_[next_id_] = {.max_tokens = max_tokens, .tokens = {}};
  return next_id_++;
}

SequenceId ModelSession::fork(SequenceId id, int64_t max_tokens) {
  check_fork(id, max_tokens);
  const int64_t least = *std::ranges::min_element(at(id).tokens);  // a method that holds less shares less
  check_room(attention_->fork_until({.prompt_tokens = least, .max_tokens = max_tokens}, max_tokens), 0,
             max_tokens);
  return branch(id, max_tokens);
}

void ModelSession::check_fork(SequenceId id, int64_t max_tokens) {
  const std::vector<int64_t>& tokens = at(id).tokens;
  require(!tokens.empty() && !readings_.contains(id), "sequence {} holds nothing that could be forked", id);
  check_length(max_tokens);
  const int64_t held = *std::ranges::max_element(tokens);
  require(held <= max_tokens, "sequence {} holds {} tokens, a fork of it was to hold {} at most", id, held,
          max_tokens);
  require(
      max_tokens <= reach(id),
      "sequence {} turns its positions as those of at most {} tokens do, a fork of it was to hold {}; add "
      "the first with room for as many",
      id, reach(id), max_tokens);
}

SequenceId ModelSession::branch(SequenceId id, int64_t max_tokens) {
  check_fork(id, max_tokens);
  const SequenceId forked = add(max_tokens);
  try {
    const std::vector<int64_t>& tokens = sequences_.at(forked).tokens = at(id).tokens;
    const SequencePlan plan{.prompt_tokens = *std::ranges::max_element(tokens), .max_tokens = max_tokens};
    run([&] { attention_->fork(id, forked, plan); });
  } catch (...) {
    remove(forked);
    throw;
  }
  return forked;
}

int64_t ModelSession::working_bytes(int64_t prompt_tokens) const {
  return prefill_->workspace_bytes(prompt_tokens) +
         transformer_.prefill_bytes(prompt_tokens, transformer_.slice_tokens());
}

void ModelSession::pause(SequenceId id) {
  require(!at(id).tokens.empty(), "sequence {} has no prompt yet; prefill it first", id);
  attention_->pause(id);
  sampling_.forget(id);
}

void ModelSession::resume(SequenceId id) {
  require(!at(id).tokens.empty(), "sequence {} has no prompt yet; prefill it first", id);
  attention_->resume(id);
}

void ModelSession::wait() {
  device_.compute().synchronize();
}

// Refuses before any work what cannot fit: state of the whole sequence, the prompt's workspace and
// activations. Values, its own and those of others, give way to all that must be on the device.
void ModelSession::check_room(const Footprint& state, int64_t working, int64_t tokens) const {
  const int64_t device_free = device_.free_bytes(Tier::device);
  const int64_t host_free = device_.free_bytes(Tier::pinned_host);
  const int64_t device_needed = state.device + working;
  const int64_t device_room = device_free + attention_->movable_bytes();
  const int64_t spilled = std::max<int64_t>(0, device_needed + state.either - device_free);
  const int64_t host_needed = state.pinned_host + spilled;
  if (device_needed > device_room || host_needed > host_free) {
    throw OutOfMemory(
        fmt::format("a sequence of {} tokens needs {} of device and {} of host memory, {} and {} are free; "
                    "shorten it or raise "
                    "--device-memory or --host-memory",
                    tokens, format_bytes(device_needed), format_bytes(host_needed), format_bytes(device_room),
                    format_bytes(host_free)));
  }
}

int64_t ModelSession::held_by(const Sequence& sequence) const {
  return sequence.tokens.empty() ? 0 : sequence.tokens[0];
}

// Of a sequence that is empty, or reads on.
void ModelSession::check_room_to_read(SequenceId id, int64_t tokens) {
  const int64_t held = held_by(at(id)), max_tokens = at(id).max_tokens;
  if (held == 0) {
    const Footprint state = attention_->peak({.prompt_tokens = tokens, .max_tokens = max_tokens});
    return check_room(state, working_bytes(tokens), max_tokens);
  }
  const int64_t working = prefill_->workspace_bytes(held + tokens) +
                          transformer_.prefill_bytes(tokens, transformer_.slice_tokens());
  check_room(attention_->append_bytes(id, tokens), working, held + tokens);
}

// `end` takes the result of the prompt's last position.
template <typename End>
auto ModelSession::read_prompt(SequenceId id, std::span<const int32_t> ids, const Progress& progress,
                               const End& end) {
  check_prompt(id, ids);
  check_room_to_read(id, std::ssize(ids));
  begin_prefill(id, ids);
  try {
    return run([&] {
      while (!prefill_is_done(id)) {
        advance_prefill(id, std::ssize(ids));
        if (progress) progress(reading(id).share(model_.layers));
      }
      return end();
    });
  } catch (...) {
    abandon_prefill(id);
    throw;
  }
}

std::vector<float> ModelSession::prefill(SequenceId id, std::span<const int32_t> ids,
                                         const Progress& progress) {
  return read_prompt(id, ids, progress, [&] { return end_prefill(id); });
}

int32_t ModelSession::prefill_sampled(SequenceId id, std::span<const int32_t> ids, Sampler& sampler,
                                      const Progress& progress) {
  return read_prompt(id, ids, progress, [&] { return end_prefill_sampled(id, sampler); });
}

void ModelSession::check_prompt(SequenceId id, std::span<const int32_t> ids) {
  const Sequence& sequence = at(id);
  const auto count = static_cast<int64_t>(ids.size());
  require(count > 0, "the prompt is empty; give at least one token");
  require(!readings_.contains(id), "sequence {} is reading a prompt already", id);
  require(sequence.tokens.empty() || methods_ == 1,
          "sequence {} has read its prompt already, and reads on under one method alone, not {}", id,
          methods_);
  const int64_t held = held_by(sequence);
  require(held + count <= sequence.max_tokens,
          "a prompt of {} tokens was given to a sequence of at most {}, which holds {}", count,
          sequence.max_tokens, held);
}

void ModelSession::begin_prefill(SequenceId id, std::span<const int32_t> ids) {
  check_prompt(id, ids);
  const auto count = static_cast<int64_t>(ids.size());
  const int64_t past = held_by(at(id));
  at(id).tokens.reserve(static_cast<std::size_t>(methods_));  // what ends the prompt asks for no memory
  readings_.emplace(id, transformer_.begin_prefill(id, ids, transformer_.slice_tokens(), past));
  try {
    if (past > 0) {
      attention_->begin_append(id, count);
    } else {
      attention_->begin(id, {.prompt_tokens = count, .max_tokens = at(id).max_tokens});
    }
  } catch (...) {
    forget_reading(id);  // which holds nothing yet
    throw;
  }
  try {
    if (!layer_of_) hold_layer(id);
  } catch (...) {
    abandon_prefill(id);
    throw;
  }
}

void ModelSession::advance_prefill(SequenceId id, int64_t rows) {
  PrefillRun& run = readings_.at(id);
  try {
    if (layer_of_ != id) hold_layer(id);
    transformer_.advance(*attention_, run, rows);
  } catch (...) {
    abandon_prefill(id);
    throw;
  }
}

// Gives a prompt the workspace of a layer.
void ModelSession::hold_layer(SequenceId id) {
  require(!layer_of_ || readings_.at(*layer_of_).between_layers(),
          "sequence {} was to read on while another is within a layer", id);
  layer_of_.reset();
  prefill_->begin(reading(id).past + reading(id).tokens);
  layer_of_ = id;
}

bool ModelSession::prefill_is_done(SequenceId id) const {
  return transformer_.is_done(reading(id));
}

std::vector<float> ModelSession::end_prefill(SequenceId id) {
  std::vector<float> logits = transformer_.end_prefill(reading(id));
  finish_reading(id);
  return logits;
}

Transformer::Drawn ModelSession::draw_end(const PrefillRun& prompt, SequenceId id, Sampler& sampler) {
  const SequenceToken of{.sequence = id};
  Sampler* const one = &sampler;
  sampling_.prepare(0, {&of, 1}, {&one, 1}, model_.vocab_size);
  return transformer_.end_prefill_sampled(prompt, {.how = sampling_.rows(), .changes = sampling_.changes()});
}

PrefillRun ModelSession::finish_prefill(SequenceId id) {
  PrefillRun prompt = std::move(readings_.at(id));
  finish_reading(id);
  return prompt;
}

int32_t ModelSession::draw_first(const PrefillRun& prompt, SequenceId id, Sampler& sampler) {
  const Transformer::Drawn drawn = run([&] { return draw_end(prompt, id, sampler); });
  sampling_.finish(drawn.ids, drawn.ranks);
  return drawn.ids[0];
}

int32_t ModelSession::end_prefill_sampled(SequenceId id, Sampler& sampler) {
  const Transformer::Drawn drawn = draw_end(reading(id), id, sampler);
  finish_reading(id);
  sampling_.finish(drawn.ids, drawn.ranks);  // once nothing can fail any more
  return drawn.ids[0];
}

// The sequence holds its prompt.
void ModelSession::finish_reading(SequenceId id) {
  const PrefillRun& run = reading(id);
  if (run.past > 0) attention_->end_append(id);
  at(id).tokens.assign(static_cast<std::size_t>(methods_), run.past + run.tokens);
  forget_reading(id);
}

const PrefillRun& ModelSession::reading(SequenceId id) const {
  const auto found = readings_.find(id);
  require(found != readings_.end(), "sequence {} is not reading a prompt", id);
  return found->second;
}

// The workspace stays with the next prompt that is being read.
void ModelSession::forget_reading(SequenceId id) {
  readings_.erase(id);
  if (layer_of_ == id) layer_of_.reset();
  if (readings_.empty()) prefill_->end();
}

void ModelSession::abandon_prefill(SequenceId id) {
  const auto run = readings_.find(id);
  if (run != readings_.end() && run->second.past > 0) {
    attention_->abandon_append(id);
  } else {
    attention_->end(id);
  }
  forget_reading(id);
}

ModelSession::Batch ModelSession::open_step(int64_t method, std::span<const SequenceToken> batch) {
  attention_->select(method);
  tell_layers(method);
  Batch step;
  std::set<SequenceId> seen;
  for (const SequenceToken& entry : batch) {
    const Sequence& sequence = at(entry.sequence);
    require(seen.insert(entry.sequence).second, "sequence {} stands twice in one step", entry.sequence);
    require(!sequence.tokens.empty(), "sequence {} has no prompt yet; prefill it first", entry.sequence);
    require(!readings_.contains(entry.sequence), "sequence {} is reading a prompt; let it end first",
            entry.sequence);
    const int64_t held = sequence.tokens[static_cast<std::size_t>(method)];
    require(held < sequence.max_tokens, "sequence {} holds {} tokens, all it was added for", entry.sequence,
            held);
    step.ids.push_back(entry.sequence);
    step.tokens.push_back(entry.token);
  }
  return step;
}

// Of the step to come.
void ModelSession::tell_layers(int64_t method) {
  const auto found = observers_.find(method);
  if (found == observers_.end()) return transformer_.tell_layers_to(nullptr);
  const LayerObserver& observer = found->second;
  const AttentionShape& shape = prefill_->shape();
  transformer_.tell_layers_to(
      [&observer, shape](SeqId sequence, int64_t layer, const LayerTrace& trace, std::span<const float> out) {
        observer({.sequence = sequence,
                  .layer = layer,
                  .heads = shape.heads,
                  .kv_heads = shape.kv_heads,
                  .head_dim = shape.head_dim,
                  .scale = shape.scale(),
                  .q = trace.q,
                  .output = out,
                  .attended = trace.attended,
                  .k = trace.k,
                  .v = trace.v,
                  .key_energy = trace.key.energy,
                  .key_error = trace.key.error});
      });
}

void ModelSession::observe(int64_t method, LayerObserver observer) {
  attention_->select(method);  // refuses unknown ones
  if (observer) {
    observers_[method] = std::move(observer);
  } else {
    observers_.erase(method);
  }
}

void ModelSession::close_step(int64_t method, const Batch& batch) {
  for (const SeqId id : batch.ids) ++sequences_.at(id).tokens[static_cast<std::size_t>(method)];
}

std::vector<float> ModelSession::decode(int64_t method, std::span<const SequenceToken> batch) {
  const Batch step = open_step(method, batch);
  std::vector<float> logits = run([&] { return transformer_.decode(*attention_, step.ids, step.tokens); });
  close_step(method, step);
  return logits;
}

Transformer::Drawn ModelSession::draw(int64_t method, const Batch& step,
                                      const Transformer::Drawing& drawing) {
  Transformer::Drawn drawn =
      run([&] { return transformer_.decode_sampled(*attention_, step.ids, step.tokens, drawing); });
  close_step(method, step);
  return drawn;
}

std::vector<int32_t> ModelSession::decode_sampled(int64_t method, std::span<const SequenceToken> batch,
                                                  std::span<Sampler* const> samplers) {
  require(samplers.size() == batch.size(), "{} samplers were given to {} sequences", samplers.size(),
          batch.size());
  const Batch step = open_step(method, batch);
  run([&] { sampling_.prepare(method, batch, samplers, model_.vocab_size); });
  Transformer::Drawn drawn = draw(method, step, {.how = sampling_.rows(), .changes = sampling_.changes()});
  sampling_.finish(drawn.ids, drawn.ranks);
  return std::move(drawn.ids);
}

std::vector<int32_t> ModelSession::decode_greedy(int64_t method, std::span<const SequenceToken> batch) {
  const std::vector<SamplingRow> greedy(batch.size());
  return draw(method, open_step(method, batch), {.how = greedy}).ids;
}

void ModelSession::fill(SequenceId id, int64_t tokens, uint64_t seed) {
  Sequence& sequence = at(id);
  require(sequence.tokens.empty(), "sequence {} holds tokens already", id);
  require(tokens >= 1 && tokens <= sequence.max_tokens,
          "{} tokens of state were asked for a sequence of at most {}", tokens, sequence.max_tokens);
  attention_->begin(id, {.prompt_tokens = tokens, .max_tokens = sequence.max_tokens});
  try {
    for (int64_t method = 0; method < methods_; ++method) {
      attention_->select(method);
      attention_->fill(id, tokens, seed);
    }
  } catch (...) {
    attention_->end(id);
    throw;
  }
  sequence.tokens.assign(static_cast<std::size_t>(methods_), tokens);
}

void ModelSession::force_hit_share(int64_t method, double share) {
  attention_->select(method);
  attention_->force_hit_share(share);
}

void ModelSession::time_ops(bool on) {
  if (on) {
    device_.start_op_clock();
  } else {
    device_.stop_op_clock();
  }
  times_ops_ = on;
}

std::vector<OpTime> ModelSession::op_times() {
  require(times_ops_, "times of ops were asked for, but none are timed; call time_ops(true) first");
  std::vector<OpTime> times;
  for (const OpRun& run : device_.op_clock()->read()) {
    auto found = std::find_if(times.begin(), times.end(), [&](const OpTime& time) {
      return time.op == run.op && time.rows == run.rows && time.columns == run.columns;
    });
    if (found == times.end()) {
      found = times.insert(found, {.op = run.op, .rows = run.rows, .columns = run.columns});
    }
    found->runs += 1;
    found->seconds += run.seconds;
  }
  return times;
}

void ModelSession::remove(SequenceId id) {
  attention_->end(id);
  forget_reading(id);
  sampling_.forget(id);
  sequences_.erase(id);
}

SessionStatistics SessionStatistics::since(const SessionStatistics& before) const {
  SessionStatistics counted = *this;
  counted.decode_steps -= before.decode_steps;
  counted.context_tokens -= before.context_tokens;
  counted.attended_tokens -= before.attended_tokens;
  counted.chosen_chunks -= before.chosen_chunks;
  counted.slot_hits -= before.slot_hits;
  counted.link -= before.link;
  return counted;
}

SessionStatistics ModelSession::statistics(int64_t method) const {
  attention_->select(method);
  const AttentionStatistics from = attention_->statistics();
  return {.held_bytes = {from.held_bytes[0], from.held_bytes[1]},
          .decode_steps = from.decode_steps,
          .context_tokens = from.context_tokens,
          .attended_tokens = from.attended_tokens,
          .chosen_chunks = from.chosen_chunks,
          .slot_hits = from.slot_hits,
          .link = from.link};
}

}  // namespace shadowkv
