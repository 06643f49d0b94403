// Public models as sizes and parts, for measurements on random weights: what memory and time depend on is the
// model's. The facts of its family come from families.cc.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/check.h"
#include "base/suggest.h"
#include "model/config.h"
#include "model/families.h"
#include "model/rope_scaling.h"

namespace shadowkv {
namespace {

// How its positions are scaled.
enum class Rule : uint8_t { plain, llama3, yarn, longrope };

struct Shape {
  const char* name;
  const char* family;  // model_type of its config.json
  int64_t layers, hidden, inner, heads, kv_heads, head_dim, vocab, context;
  double theta;
  bool tied = false;
  Rule rule = Rule::plain;
  double factor = 1;             // llama3, yarn
  int64_t original_context = 0;  // where there is a rule
};

constexpr Shape kShapes[] = {
    // The long-context variant, trained for 1M tokens.
    {"llama-3-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 1048576, 5e5},
    {"llama-3.1-8b", "llama", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 5e5, false, Rule::llama3, 8, 8192},
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 5e5, true, Rule::llama3, 32, 8192},
    {"llama-3.2-3b", "llama", 28, 3072, 8192, 24, 8, 128, 128256, 131072, 5e5, true, Rule::llama3, 32, 8192},
    {"yi-9b", "llama", 48, 4096, 11008, 32, 4, 128, 64000, 204800, 5e6},
    {"mistral-7b", "mistral", 32, 4096, 14336, 32, 8, 128, 32768, 32768, 1e6},
    // The 1M-token chat variant: 4 KV heads, where the shorter one has 2.
    {"glm-4-9b", "chatglm", 40, 4096, 13696, 32, 4, 128, 151552, 1048576, 1e8},
    // The later generation, with norms of what attention and the MLP give.
    {"glm-4-0414-9b", "glm4", 40, 4096, 13696, 32, 2, 128, 151552, 32768, 1e4},
    {"phi-3-mini", "phi3", 32, 3072, 8192, 32, 32, 96, 32064, 131072, 1e4, false, Rule::longrope, 0, 4096},
    {"phi-3-medium", "phi3", 40, 5120, 17920, 40, 10, 128, 32064, 131072, 1e4, false, Rule::longrope, 0,
     4096},
    {"qwen2-7b", "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 131072, 1e6, false, Rule::yarn, 4, 32768},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, 1e6, true},
    {"qwen3-8b", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, 131072, 1e6, false, Rule::yarn, 4, 32768},
    {"smollm2-135m", "llama", 30, 576, 1536, 9, 3, 64, 49152, 8192, 1e5, true},
    // No public model: small enough for a laptop, heads as large ones have them.
    {"tiny", "llama", 8, 1024, 2816, 16, 4, 128, 8192, 131072, 5e5},
};

// Divisors found by search are a checkpoint's own; these are as many, rise alike, and cost the same.
std::vector<float> made_up_divisors(int64_t pairs, double most) {
  std::vector<float> divisors;
  for (int64_t i = 0; i < pairs; ++i) {
    divisors.push_back(
        static_cast<float>(std::pow(most, static_cast<double>(i) / static_cast<double>(pairs))));
  }
  return divisors;
}

void set_rule(const Shape& shape, RopeConfig& rope) {
  const std::string where = shape.name;
  switch (shape.rule) {
    case Rule::plain:
      return;
    case Rule::llama3:
      rope.divisors = llama3_divisors(rope,
                                      {.factor = shape.factor,
                                       .low_freq_factor = 1,
                                       .high_freq_factor = 4,
                                       .original_context = shape.original_context},
                                      where);
      return;
    case Rule::yarn:
      return scale_by_yarn(rope, {.factor = shape.factor, .original_context = shape.original_context}, where);
    case Rule::longrope:
      break;
  }
  constexpr double kMostShort = 2.5, kMostLong = 64;
  const int64_t pairs = rope.rotary_dim / 2;
  scale_by_longrope(rope,
                    {.short_divisors = made_up_divisors(pairs, kMostShort),
                     .long_divisors = made_up_divisors(pairs, kMostLong),
                     .context = shape.context,
                     .original_context = shape.original_context},
                    where);
}

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const Shape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

ModelConfig config_from_shape_name(std::string_view name) {
  const auto* shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                   [&](const Shape& known) { return known.name == name; });
  if (shape == std::end(kShapes)) throw InvalidInput(unknown_name("shape", name, shape_names()));
  ModelConfig config;
  config.architecture = shape->family;
  config.name = shape->name;
  config.vocab_size = shape->vocab;
  config.hidden = shape->hidden;
  config.layers = shape->layers;
  config.heads = shape->heads;
  config.kv_heads = shape->kv_heads;
  config.head_dim = shape->head_dim;
  config.inner = shape->inner;
  config.context = shape->context;
  config.tied_embeddings = shape->tied;
  const Family& family = *find_hf_family(shape->family);
  config.qkv_bias = family.qkv_bias != Has::never;  // where files may tell, the public models have them
  config.head_norms = family.head_norms;
  config.post_norms = family.post_norms;
  const double share = family.rotary_share == 0 ? 1 : family.rotary_share;
  config.rope.theta = shape->theta;
  config.rope.rotary_dim = static_cast<int64_t>(static_cast<double>(shape->head_dim) * share);
  config.rope.interleaved = family.neighbours_hf;
  set_rule(*shape, config.rope);
  validate(config);
  return config;
}

}  // namespace shadowkv
