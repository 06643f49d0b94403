#include "bench_needs.h"

#include <algorithm>
#include <cmath>

namespace shadowkv::apps {
namespace {

// The value of an option that this version may or may not have; "automatic" where it has not.
std::string option_value(const AttentionConfig& config, std::string_view name) {
  for (const AttentionOption& option : list_options(config)) {
    if (option.name == name) return option.value;
  }
  return "automatic";
}

int64_t bytes_of(std::string_view type, int64_t automatic) {
  if (type == "int8") return 1;
  if (type == "bfloat16") return 2;
  if (type == "float32") return 4;
  return automatic;
}

int64_t bytes_of(StorageType type, int64_t automatic) {
  switch (type) {
    case StorageType::int8:
      return 1;
    case StorageType::bfloat16:
      return 2;
    case StorageType::float32:
      return 4;
    default:
      return automatic;
  }
}

// Bytes of a token's index, per layer and KV head.
double index_bytes(const ModelInfo& model, const AttentionConfig& config, int64_t number_bytes) {
  constexpr double kScaleBytes = 2;
  const auto dim = static_cast<double>(model.head_dim);
  if (config.method == Method::quest)
    return 2 * dim * static_cast<double>(number_bytes) / static_cast<double>(config.chunk_size);
  if (config.index == IndexKind::sketch)
    return dim * static_cast<double>(config.sketch_bits) / 8 + kScaleBytes;
  const int64_t number = bytes_of(option_value(config, "landmarks"), number_bytes);
  return dim * static_cast<double>(number) / static_cast<double>(config.chunk_size);
}

// The matrices that a step reads: of embeddings only a row a sequence.
double read_parameters(const ModelInfo& model) {
  const int64_t table = model.tied_embeddings ? 0 : model.vocab_size * model.hidden;
  return static_cast<double>(model.parameters - table);
}

SequenceNeeds full_needs(const ModelInfo& model, const AttentionConfig& config, double context,
                         int64_t number_bytes) {
  const auto heads_of_all_layers = static_cast<double>(model.layers * model.kv_heads * model.head_dim);
  SequenceNeeds needs;
  needs.resident =
      context * heads_of_all_layers * 2 * static_cast<double>(bytes_of(config.values, number_bytes));
  needs.flops = static_cast<double>(model.layers * model.heads * model.head_dim) * context * 4 +
                2 * read_parameters(model);
  return needs;
}

}  // namespace

ChunkCounts chunk_counts(const AttentionConfig& config, int64_t context) {
  int64_t budget = config.sparse_budget;
  if (config.sparse_budget_per > 0) {
    budget *= (context + config.sparse_budget_per - 1) / config.sparse_budget_per;
  }
  if (config.sparse_budget_share > 0) {
    budget = static_cast<int64_t>(std::ceil(config.sparse_budget_share * static_cast<double>(context)));
  }
  ChunkCounts counts;
  counts.open = std::max<int64_t>(0, (context - config.local_window) / config.chunk_size - 1);
  counts.chosen = std::max<int64_t>(1, budget / config.chunk_size);
  counts.candidates = static_cast<int64_t>(std::ceil(config.rerank * static_cast<double>(counts.chosen)));
  return counts;
}

SequenceNeeds sequence_needs(const ModelInfo& model, const AttentionConfig& config, int64_t context,
                             int64_t number_bytes) {
  const auto tokens = static_cast<double>(context);
  if (config.method == Method::full) return full_needs(model, config, tokens, number_bytes);
  const ChunkCounts chunks = chunk_counts(config, context);
  const int64_t dense_layers = std::min(config.dense_layers, model.layers);
  const auto layers = static_cast<double>(model.layers - dense_layers),
             dense = static_cast<double>(dense_layers);
  const auto heads = static_cast<double>(model.heads);
  const auto kv = static_cast<double>(model.kv_heads), dim = static_cast<double>(model.head_dim);
  const auto chunk = static_cast<double>(config.chunk_size), rank = static_cast<double>(config.rank);
  const auto number = static_cast<double>(number_bytes);
  const double chosen = chunk * static_cast<double>(std::min(chunks.chosen, chunks.open));
  const double candidates = chunk * static_cast<double>(std::min(chunks.candidates, chunks.open));
  const double always =
      static_cast<double>(config.outlier_chunks) * chunk + static_cast<double>(config.local_window);
  const double segments =
      config.segment_tokens > 0 ? std::max(1.0, tokens / static_cast<double>(config.segment_tokens)) : 1.0;
  const bool rebuilds = config.method == Method::shadow;  // else keys are whole
  const auto value = static_cast<double>(bytes_of(config.values, rebuilds ? 1 : number_bytes));
  const double key = rebuilds ? rank * static_cast<double>(bytes_of(config.factors, 1)) : dim * number;
  SequenceNeeds needs;
  needs.index = layers * tokens * kv * index_bytes(model, config, number_bytes);
  needs.resident = (layers * always + dense * tokens) * kv * dim * 2 * number;
  needs.chosen = layers * chosen * kv * dim * 2 * number;
  needs.bases = rebuilds ? layers * segments * rank * kv * dim * 2 : 0;
  needs.factors = layers * candidates * kv * key;
  needs.values = layers * kv * chosen * dim * value;
  needs.piece_bytes = chunk * dim * value;
  needs.flops = (layers * (chosen + always) + dense * tokens) * heads * dim * 4 + 2 * read_parameters(model);
  // A sketch is scored by integer units. Bounds are two numbers where a landmark is one.
  const double scored = !rebuilds ? 2 : config.index == IndexKind::landmarks ? 1 : 0;
  needs.flops += scored * layers * tokens / chunk * heads * dim * 2;
  needs.rebuild_flops = rebuilds ? layers * candidates * kv * rank * dim * 2 : 0;
  return needs;
}

NumberBytes number_bytes_of(const EngineOptions& options) {
  const int64_t compute = options.dtype == "float32" ? 4 : 2;
  return {.compute = compute, .weight = options.weights == "int8" ? 1 : compute};
}

StepNeeds step_needs(const ModelInfo& model, const SequenceNeeds& one, int64_t batch,
                     const StepShares& shares, int64_t weight_bytes) {
  const auto sequences = static_cast<double>(batch);
  const double misses = 1 - shares.hits;
  const double read = one.index + one.resident + one.chosen + one.bases + one.factors * misses +
                      one.values * misses * (1 - shares.on_host);
  StepNeeds needs;
  needs.link_bytes = sequences * one.values * misses * shares.on_host;
  needs.memory_bytes = read_parameters(model) * static_cast<double>(weight_bytes) + sequences * read;
  needs.flops = sequences * (one.flops + one.rebuild_flops * misses);
  needs.piece_bytes = one.piece_bytes;
  return needs;
}

double Roofline::seconds() const {
  return std::max({link_s, memory_s, product_s});
}

std::string_view Roofline::bound() const {
  if (link_s >= memory_s && link_s >= product_s) return "link";
  return memory_s >= product_s ? "memory" : "products";
}

Roofline roofline(const StepNeeds& needs, const Ceilings& ceilings) {
  const double link = ceilings.gather_rate(static_cast<int64_t>(needs.piece_bytes));
  return {.link_s = needs.link_bytes > 0 ? needs.link_bytes / link : 0,
          .memory_s = needs.memory_bytes / ceilings.device_read,
          .product_s = needs.flops / ceilings.product};
}

}  // namespace shadowkv::apps
