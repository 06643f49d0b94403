// The one place where an attention configuration is checked against a model.
#include <algorithm>
#include <functional>

#include "attention/attention.h"
#include "base/check.h"

namespace shadowkv {
namespace {

constexpr int64_t kMaxChunk = 16;
constexpr int64_t kSegmentUnit = 512;
constexpr int64_t kMaxTokens = int64_t{1} << 31;  // positions are int32
constexpr double kMaxRerank = 16;
constexpr double kMaxSlotSelections = 1024;
constexpr int64_t kMaxMicroBatches = 2, kMaxStepParts = 64;

void check_range(std::string_view name, int64_t value, int64_t least, int64_t most) {
  require(value >= least && value <= most, "{} = {} is out of range; it must lie in [{}, {}]", name, value,
          least, most);
}

void check_range(std::string_view name, double value, double least, double most) {
  require(value >= least && value <= most, "{} = {} is out of range; it must lie in [{}, {}]", name, value,
          least, most);
}

void check_ranges(const AttentionConfig& config) {
  check_range("exact-below", config.exact_below, 0, kMaxTokens);
  check_range("dense-layers", config.dense_layers, 0, kMaxTokens);
  check_range("sketch-bits", config.sketch_bits, 0, 2);
  check_range("chunk-size", config.chunk_size, 1, kMaxChunk);
  check_range("sparse-budget", config.sparse_budget, 1, kMaxTokens);
  check_range("sparse-budget-per", config.sparse_budget_per, 0, kMaxTokens);
  check_range("sparse-budget-share", config.sparse_budget_share, 0.0, 1.0);
  check_range("rerank", config.rerank, 1.0, kMaxRerank);
  check_range("rank", config.rank, 0, kMaxTokens);
  check_range("outlier-chunks", config.outlier_chunks, 0, kMaxTokens);
  check_range("local-window", config.local_window, 1, kMaxTokens);
  check_range("slot-selections", config.slot_selections, 1.0, kMaxSlotSelections);
  check_range("step-parts", config.step_parts, 0, kMaxStepParts);
  check_range("micro-batches", config.micro_batches, 0, kMaxMicroBatches);
  check_range("segment-tokens", config.segment_tokens, 0, kMaxTokens);
  check_range("segment-min-tokens", config.segment_min_tokens, 1, kMaxTokens);
  require(config.segment_tokens % kSegmentUnit == 0, "segment-tokens = {} is not a multiple of {}",
          config.segment_tokens, kSegmentUnit);
  require(config.sparse_budget >= config.chunk_size,
          "sparse-budget = {} tokens is less than one chunk of {}; raise it or lower chunk-size",
          config.sparse_budget, config.chunk_size);
  require(config.method == Method::shadow || config.outlier_chunks == 0,
          "outlier-chunks = {} was asked for with quest, whose index knows none; set it to 0 or take "
          "method=shadow",
          config.outlier_chunks);
  require(config.index == IndexKind::landmarks || config.outlier_chunks == 0,
          "outlier-chunks = {} was asked for with the sketch index, which keeps none; set it to 0 or take "
          "index=landmarks",
          config.outlier_chunks);
}

int64_t default_rank(int64_t width) {
  return std::min(width, std::max<int64_t>(160, 5 * width / 16));
}

// What shadow keeps of keys and values, and how it finds chunks.
void resolve_shadow(AttentionConfig& config, const AttentionShape& shape,
                    const std::function<void(std::string)>& note) {
  const int64_t width = shape.kv_width();
  if (config.factors == StorageType::automatic) config.factors = StorageType::int8;
  if (config.values == StorageType::automatic) config.values = StorageType::int8;
  if (config.rank == 0) config.rank = default_rank(width);
  if (config.rank > width) {
    note(
        fmt::format("rank {} is over the width of all KV heads, {}; all of it is taken", config.rank, width));
    config.rank = width;
  }
  if (config.sketch_bits == 0) config.sketch_bits = shape.head_dim >= 128 ? 1 : 2;
}

}  // namespace

AttentionConfig resolve(const AttentionConfig& config, const AttentionShape& shape, int64_t context,
                        std::vector<std::string>* notes) {
  AttentionConfig resolved = config;
  const auto note = [&](std::string text) {
    if (notes) notes->push_back(std::move(text));
  };
  if (config.method == Method::full) {
    require(config.values != StorageType::float32 || shape.compute == DType::f32,
            "values = float32 was asked for with full attention computed in {}; set dtype to float32",
            name_of(shape.compute));
    return resolved;
  }
  check_ranges(config);
  if (config.method == Method::shadow) resolve_shadow(resolved, shape, note);
  if (config.dense_layers > shape.layers) {
    note(fmt::format("dense-layers {} is over the model's {} layers; all of them are attended exactly",
                     config.dense_layers, shape.layers));
    resolved.dense_layers = shape.layers;
  }
  if (config.sparse_budget > context && config.sparse_budget_share == 0) {
    note(fmt::format("sparse-budget {} is over the context of {} tokens; all of it is taken",
                     config.sparse_budget, context));
    resolved.sparse_budget = round_up(context, config.chunk_size);
  }
  return resolved;
}

}  // namespace shadowkv
