// What a decode step needs at least, by count from the configuration: bytes over the host link, bytes of
// device memory read, and floating-point operations. With measured ceilings they make the step's roofline.
#pragma once

#include <string_view>

#include "shadowkv/ceilings.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

// Chunks of a sequence of `context` tokens under a sparse method, per KV head and layer.
struct ChunkCounts {
  int64_t open = 0;        // that may be chosen: sealed, the first one not counted
  int64_t chosen = 0;      // a step
  int64_t candidates = 0;  // that the index proposes
};
[[nodiscard]] ChunkCounts chunk_counts(const AttentionConfig& resolved, int64_t context);

// One sequence's part in a step, in bytes unless said otherwise. What depends on the slot cache is counted
// as if nothing were found there. Left out, together below 2 % where head_dim is 64 or more: scales of int8,
// tables, activations, what the step writes.
struct SequenceNeeds {
  double index = 0;        // all of it is scored
  double resident = 0;     // keys and values that are always attended; all of them under full
  double chosen = 0;       // keys and values of the choice, ready in their slots
  double bases = 0;        // of all segments, in bfloat16
  double factors = 0;      // left factors of the candidates to rebuild, or their keys where these are whole
  double values = 0;       // stored values of the choice to fetch
  double piece_bytes = 0;  // of one chunk's values, which lie side by side
  double flops = 0;        // products with the weights, scores of landmarks, attention
  double rebuild_flops = 0;
};

// Bytes of a number of the compute type, and of a weight (scales of rows not counted).
struct NumberBytes {
  int64_t compute = 2;
  int64_t weight = 2;
};
[[nodiscard]] NumberBytes number_bytes_of(const EngineOptions& options);

// number_bytes: of a number of the compute type. The configuration must be resolved.
[[nodiscard]] SequenceNeeds sequence_needs(const ModelInfo& model, const AttentionConfig& resolved,
                                           int64_t context, int64_t number_bytes);

struct StepShares {
  double hits = 0;     // of the choice, found in slots
  double on_host = 0;  // of the values, lying in host memory
};

// A whole step.
struct StepNeeds {
  double link_bytes = 0;
  double memory_bytes = 0;
  double flops = 0;
  double piece_bytes = 0;
};
[[nodiscard]] StepNeeds step_needs(const ModelInfo& model, const SequenceNeeds& one, int64_t batch,
                                   const StepShares& shares, int64_t weight_bytes);

// Seconds that each resource needs for itself; a step takes at least the longest.
struct Roofline {
  double link_s = 0, memory_s = 0, product_s = 0;
  [[nodiscard]] double seconds() const;
  [[nodiscard]] std::string_view bound() const;  // "link", "memory" or "products": the longest
};
[[nodiscard]] Roofline roofline(const StepNeeds& needs, const Ceilings& ceilings);

}  // namespace shadowkv::apps
