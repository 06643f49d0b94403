// Sizes of public models, for measurements on random weights. All are taken as plain llama decoders: what
// matters to memory and time (layers, heads, widths, vocabulary, context) is the model's, extras such as
// biases are not there.
#include <algorithm>
#include <iterator>

#include "base/check.h"
#include "base/suggest.h"
#include "model/config.h"

namespace shadowkv {
namespace {

struct Shape {
  const char* name;
  int64_t layers, hidden, inner, heads, kv_heads, head_dim, vocab, context;
  double theta;
  bool tied;
};

constexpr Shape kShapes[] = {
    // The long-context variant, trained for 1M tokens.
    {"llama-3-8b", 32, 4096, 14336, 32, 8, 128, 128256, 1048576, 5e5, false},
    {"llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256, 131072, 5e5, false},
    {"yi-9b", 48, 4096, 11008, 32, 4, 128, 64000, 204800, 5e6, false},
    // The 1M-token chat variant: 4 KV heads, where the shorter one has 2.
    {"glm-4-9b", 40, 4096, 13696, 32, 4, 128, 151552, 1048576, 1e8, false},
    {"phi-3-mini", 32, 3072, 8192, 32, 32, 96, 32064, 131072, 1e4, false},
    {"qwen2-7b", 28, 3584, 18944, 28, 4, 128, 152064, 131072, 1e6, false},
    {"smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152, 8192, 1e5, true},
    // No public model: small enough for a laptop, heads as large ones have them.
    {"tiny", 8, 1024, 2816, 16, 4, 128, 8192, 131072, 5e5, false},
};

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
  config.architecture = "llama";
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
  config.rope = {.theta = shape->theta, .rotary_dim = shape->head_dim, .interleaved = false, .divisors = {}};
  validate(config);
  return config;
}

}  // namespace shadowkv
