// The seam between a model and a way of attending. Attention receives queries, keys and values before
// rotation and owns everything that happens to them: rotation, storage, index, selection. A model knows no
// method, a method knows no model.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/rope.h"
#include "base/device.h"
#include "base/memory_piece.h"
#include "base/tensor.h"
#include "shadowkv/attention_config.h"
#include "shadowkv/link_bytes.h"

namespace shadowkv {

using SeqId = int64_t;

// What attention needs to know of a model.
struct AttentionShape {
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  RopeConfig rope;
  DType compute = DType::bf16;  // type of stored keys and values that are not quantised

  [[nodiscard]] int64_t kv_width() const { return kv_heads * head_dim; }
  [[nodiscard]] float scale() const;  // of q . k: magnitude^2 / sqrt(head_dim)
};

// Bytes one sequence holds. either: values, which lie wherever there is room.
struct Footprint {
  int64_t device = 0;
  int64_t pinned_host = 0;
  int64_t either = 0;

  Footprint& operator+=(const Footprint& other) {
    device += other.device;
    pinned_host += other.pinned_host;
    either += other.either;
    return *this;
  }
};

// Where what a sequence holds of a prompt can be cut, so that the first part alone is what a sequence that
// read no more would hold.
struct PrefixCuts {
  int64_t every = 0;            // at multiples of so many tokens; 0: nowhere
  int64_t least = 0;            // of those, from so many on
  bool serves_shorter = false;  // what is kept up to one of them can be forked at all those before it
};

// The first tokens of a prefix, that it shares with another; none: it shares nothing.
struct PrefixBeginning {
  SeqId prefix = 0;
  int64_t tokens = 0;
};

struct SequencePlan {
  int64_t prompt_tokens = 0;  // that the first prefill will bring
  int64_t max_tokens = 0;     // most the sequence may ever hold
};

// One layer's projections of a prefill slice (one sequence) or of a decode step (one token a sequence).
struct LayerInput {
  int64_t layer = 0;
  TensorView hidden;           // [T, hidden] input of the projections
  TensorView q;                // [T, heads, head_dim] before rotation
  TensorView k;                // [T, kv_heads, head_dim] before rotation
  TensorView v;                // [T, kv_heads, head_dim]
  SeqId sequence = 0;          // prefill: whose tokens these are
  int64_t first_position = 0;  // prefill: position of the first of them
  int64_t micro_batch = 0;     // decode: which of the step's micro_batches() these rows are
};

// Rows [first, first + count) of a decode step that go through all layers by themselves, on a queue of their
// own that waits for the step's start and is waited for at its end.
struct MicroBatch {
  int64_t first = 0;
  int64_t count = 0;
  Queue* queue = nullptr;
};

struct AttentionStatistics {
  int64_t decode_steps = 0;                  // one a sequence and step
  int64_t context_tokens = 0;                // tokens held, summed over those
  double attended_tokens = 0;                // of them attended per layer and KV head, summed over those
  int64_t chosen_chunks = 0;                 // over layers and KV heads
  int64_t slot_hits = 0;                     // of them already in the slot cache
  std::array<int64_t, kTiers> held_bytes{};  // of all live sequences, now
  LinkBytes link;                            // between the tiers, so far
};

// Of a token's key before rotation, all KV heads together: squared distances from its segment's mean, and
// from what its factors give back. Both 0 where keys are kept as they are.
struct KeyError {
  double energy = 0;
  double error = 0;
};

// What a layer of a decode step did for one of its sequences: for evaluation.
struct LayerTrace {
  std::vector<float> q;                        // [heads, head_dim] rotated
  std::vector<std::vector<int32_t>> attended;  // [kv_heads] positions, ascending
  // Of every token, keys rotated, from methods that hold them as they are; else empty.
  std::vector<float> k, v;  // [tokens, kv_heads, head_dim]
  KeyError key = {};        // of the step's token
};

class Attention {
 public:
  virtual ~Attention() = default;

  // Of a sequence that holds `tokens` tokens and may grow no further. A promise: what is held stays within
  // it.
  [[nodiscard]] virtual Footprint footprint(int64_t tokens) const = 0;
  // The most that a sequence holds on its way from prompt to end, a change of form included.
  [[nodiscard]] Footprint peak(const SequencePlan& plan) const { return peak_until(plan, plan.max_tokens); }
  // The same until it holds `tokens` tokens, at least the prompt's: what to set aside for one that may stop
  // early.
  [[nodiscard]] virtual Footprint peak_until(const SequencePlan& /*plan*/, int64_t tokens) const {
    return footprint(tokens);
  }
  virtual void begin(SeqId sequence, const SequencePlan& plan) = 0;

  // Between steps: begins a sequence that holds what another holds and may grow to max_tokens of the plan; it
  // shares what never changes with it, and each goes on to the bit as though it had read and decoded all by
  // itself. `from` is neither paused nor reading on. After an exception `to` is to be ended.
  virtual void fork(SeqId from, SeqId to, const SequencePlan& plan) = 0;
  // The most that a sequence forked from one of prompt_tokens tokens takes beside what it shares, until it
  // holds `tokens` tokens.
  [[nodiscard]] virtual Footprint fork_until(const SequencePlan& plan, int64_t tokens) const = 0;

  // ---- prefixes: sequences that hold the first tokens of others and take no steps, but can be forked.
  // Where a sequence that reads so many tokens in all can be cut.
  [[nodiscard]] virtual PrefixCuts prefix_cuts(int64_t tokens) const = 0;
  // Begins, after begin() or begin_append() of `from` and before its first slice, a sequence that is to hold
  // the first `tokens` tokens of it, a cut behind all that it held before. Once all layers are closed,
  // end_prefix lets it hold them, to the bit as though it had read them and none after them. Before, or after
  // an exception, it can be ended.
  virtual void begin_prefix(SeqId from, SeqId to, int64_t tokens) = 0;
  virtual void end_prefix(SeqId from, SeqId to) = 0;
  // fork() of a prefix, cut at `tokens` tokens; the plan is as for a sequence that read them itself.
  virtual void fork_prefix(SeqId from, SeqId to, int64_t tokens, const SequencePlan& plan) = 0;
  // Begins a prefix of `tokens` tokens from a file: what prefix_numbers() said of the one that was written
  // there, whose saved_memory() it then has, as yet undefined but for the first tokens, which are another
  // prefix's. Throws InvalidInput for numbers that no prefix of so many tokens has. After an exception `to`
  // is to be ended.
  [[nodiscard]] virtual std::vector<int64_t> prefix_numbers(SeqId prefix) const = 0;
  virtual void restore_prefix(SeqId to, int64_t tokens, const PrefixBeginning& beginning,
                              std::span<const int64_t> numbers) = 0;
  // What a prefix of so many tokens takes beside the first `shared` that it has in common with others.
  [[nodiscard]] virtual Footprint prefix_bytes(int64_t tokens, int64_t shared) const = 0;
  // Device bytes that reading a prompt takes at most where its prefixes are kept, or where it is read on
  // behind one, beside what reading it otherwise takes.
  [[nodiscard]] virtual int64_t prefix_working_bytes(int64_t /*tokens*/) const { return 0; }

  // For benchmarks of decode: the begun sequence holds `tokens` tokens of made-up state, as if it had read a
  // prompt.
  virtual void fill(SeqId sequence, int64_t tokens, uint64_t seed) = 0;
  // For benchmarks: choices are paid for, then replaced by ones of which that share is found in the slots;
  // negative ends it. Methods that choose nothing ignore it.
  virtual void force_hit_share(double /*share*/) {}

  // Prefill of one layer: exact over the new tokens, called with slices of the prompt in order; then
  // close_prefill builds what this layer keeps of the raw keys, of tokens [first, first + tokens) and maybe
  // some more, as a method may not cut everywhere: returns where the next call is to begin, at the prompt's
  // end when the layer is closed. Cuts change no result. Layers follow one another.
  virtual void prefill(const LayerInput& input, TensorView out) = 0;
  virtual int64_t close_prefill(SeqId sequence, int64_t layer, int64_t first, int64_t tokens) = 0;

  // Reading on: a sequence that holds tokens reads `tokens` more by slices and closings as above, at the
  // positions that follow. They attend exactly to themselves and to all that is held, in the form that it is
  // kept in. Between begin_append and end_append it takes no step; until then it can be abandoned, and is
  // what it was. The slices' workspace has room for what is held besides (ExactPrefill::begin).
  virtual void begin_append(SeqId sequence, int64_t tokens) = 0;
  virtual void end_append(SeqId sequence) = 0;
  virtual void abandon_append(SeqId sequence) = 0;
  // Bytes that reading on takes beside what is held now and that workspace, some only until end_append.
  [[nodiscard]] virtual Footprint append_bytes(SeqId sequence, int64_t tokens) const = 0;

  // Multiples of so many tokens are where closing can be cut.
  [[nodiscard]] virtual int64_t closing_tokens() const { return 1; }

  // Places that suit a decode step of these sequences: place i for sequence arranged[i]; empty: as they come.
  // A caller may take others.
  [[nodiscard]] virtual std::vector<int64_t> arrange(std::span<const SeqId> /*sequences*/) const {
    return {};
  }
  // Decode: begin_step makes room for one more token of each sequence (all host work of a step), then decode
  // runs once a layer and micro-batch, row i of the input being the new token of the micro-batch's i-th.
  virtual void begin_step(std::span<const SeqId> sequences) = 0;
  // How the step begun is to be cut, in order; empty: not at all, on the device's compute queue.
  [[nodiscard]] virtual std::vector<MicroBatch> micro_batches() { return {}; }
  virtual void decode(const LayerInput& input, TensorView out) = 0;
  // Of the layer that was decoded last, which nothing must still be running of.
  [[nodiscard]] virtual LayerTrace trace(int64_t layer, SeqId sequence) = 0;
  // Counts the step's tokens as held. Without it, as after an exception, the step can be taken again.
  virtual void end_step() = 0;

  // ---- values, which lie in either memory. Every end_step() moves some up into what room there is, and an
  // allocation that finds the device full moves some down; time changes, never a result.
  // Device bytes that could lie in host memory as well.
  [[nodiscard]] virtual int64_t movable_bytes() const { return 0; }
  // Moves values to host memory, the least recently used first, until so many device bytes are free, or
  // nothing is left to move or no room for it; returns the bytes moved. Waits for the device; not within a
  // step.
  virtual int64_t release_device(int64_t /*bytes*/) { return 0; }
  // Device bytes that every end_step() leaves free from now on, by moves of a bounded size: room for a
  // sequence that is to come, while decode goes on.
  virtual void keep_free(int64_t /*bytes*/) {}

  // Equal for two steps that issue the same work over the same addresses, so that one's recording serves the
  // other.
  [[nodiscard]] virtual std::vector<int64_t> step_shape() const = 0;

  // Between steps: moves all that a sequence holds into host memory, and back what belongs on the device; it
  // then goes on to the bit. What it shares moves with the last of those that are not paused. A paused
  // sequence takes no step. Throws OutOfMemory, which leaves it between the two: either can be tried again,
  // or end() be called.
  virtual void pause(SeqId sequence) = 0;
  virtual void resume(SeqId sequence) = 0;

  // ---- state that outlives its process. What a sequence holds is its memory, and numbers that say which
  // memory that is: a sequence that is restored by them, and given the content, goes on as the other would.
  [[nodiscard]] virtual std::vector<int64_t> saved_numbers(SeqId sequence) const = 0;
  [[nodiscard]] virtual std::vector<MemoryPiece> saved_memory(SeqId sequence) = 0;
  // Bytes of that memory. Throws InvalidInput for numbers that no sequence of that plan can have:
  // prompt_tokens are those that it holds. Takes none itself.
  [[nodiscard]] virtual int64_t saved_bytes(const SequencePlan& plan,
                                            std::span<const int64_t> numbers) const = 0;
  // Begins such a sequence, its content as yet undefined.
  virtual void restore(SeqId sequence, const SequencePlan& plan, std::span<const int64_t> numbers) = 0;

  virtual void end(SeqId sequence) = 0;  // gives everything back; unknown ids are ignored
  [[nodiscard]] virtual AttentionStatistics statistics() = 0;
};

class ExactPrefill;

// Methods built on the same ExactPrefill can share one prefill (shared_prefill.h).
[[nodiscard]] std::unique_ptr<Attention> make_attention(const AttentionConfig& config,
                                                        const AttentionShape& shape,
                                                        std::shared_ptr<ExactPrefill> prefill,
                                                        Device& device);

// The configuration as it runs on that shape: automatic values filled in, values beyond the whole taken as
// the whole (each with a line in `notes`). Throws InvalidInput naming field, value and range.
[[nodiscard]] AttentionConfig resolve(const AttentionConfig& config, const AttentionShape& shape,
                                      int64_t context, std::vector<std::string>* notes);

}  // namespace shadowkv
