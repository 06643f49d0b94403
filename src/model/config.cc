#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "model/families.h"

namespace shadowkv {
namespace {

void check_range(std::string_view field, int64_t value, int64_t least, int64_t most) {
  require(value >= least && value <= most, "the model's {} is {}, {} to {} are supported", field, value,
          least, most);
}

void check_sizes(const ModelConfig& config) {
  check_range("vocabulary size", config.vocab_size, 1, 1 << 24);
  check_range("hidden size", config.hidden, 1, 1 << 18);
  check_range("number of layers", config.layers, 1, 1024);
  check_range("number of query heads", config.heads, 1, 1024);
  check_range("number of KV heads", config.kv_heads, 1, config.heads);
  require(config.heads % config.kv_heads == 0,
          "the model has {} query heads and {} KV heads; query heads must be a multiple of KV heads",
          config.heads, config.kv_heads);
  require(config.head_dim >= 8 && config.head_dim <= 256 && config.head_dim % 8 == 0,
          "the model's head size is {}; multiples of 8 up to 256 are supported", config.head_dim);
  check_range("MLP width", config.inner, 1, 1 << 20);
  check_range("context", config.context, 1, kMostContext);
  require(std::isfinite(config.rms_eps) && config.rms_eps > 0 && config.rms_eps < 1,
          "the model's RMS norm epsilon is {}, it must lie between 0 and 1", config.rms_eps);
}

void check_divisors(const RopeConfig& rope, const std::vector<float>& divisors) {
  require(std::ssize(divisors) == rope.rotary_dim / 2,
          "the model divides the frequencies of {} pairs of numbers, {} pairs turn", divisors.size(),
          rope.rotary_dim / 2);
  for (const float divisor : divisors) {
    require(std::isfinite(divisor) && divisor > 0,
            "the model divides a frequency of RoPE by {}; positive numbers are supported", divisor);
  }
}

void check_rope(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  require(std::isfinite(rope.theta) && rope.theta >= 1, "the model's RoPE base is {}, it must be at least 1",
          rope.theta);
  require(rope.rotary_dim >= 2 && rope.rotary_dim <= config.head_dim && rope.rotary_dim % 2 == 0,
          "the model turns {} numbers of each head of {}; an even number up to the head size is supported",
          rope.rotary_dim, config.head_dim);
  require(
      rope.magnitude == 1 ||
          (rope.magnitude > 0 && rope.magnitude < 100 && rope.rotary_dim == config.head_dim),
      "the model multiplies turned queries and keys by {} and turns {} numbers of each head of {}; factors "
      "up to 100 are supported where whole heads turn",
      rope.magnitude, rope.rotary_dim, config.head_dim);
  if (!rope.divisors.empty()) check_divisors(rope, rope.divisors);
  for (const ShorterRope& shorter : rope.shorter) check_divisors(rope, shorter.divisors);
}

void check_tokens(const ModelConfig& config) {
  require(config.bos_token >= -1 && config.bos_token < config.vocab_size,
          "the model's first token is {}, its vocabulary has {} tokens", config.bos_token, config.vocab_size);
  for (const int64_t token : config.eos_tokens) {
    require(token >= 0 && token < config.vocab_size,
            "the model's end token is {}, its vocabulary has {} tokens", token, config.vocab_size);
  }
}

}  // namespace

bool ModelConfig::is_eos(int64_t token) const {
  return std::find(eos_tokens.begin(), eos_tokens.end(), token) != eos_tokens.end();
}

void ModelConfig::check_prompt(int64_t tokens) const {
  require(tokens > 0, "the prompt is empty; give at least one token");
  require(tokens < context,
          "the prompt has {} tokens, the model's context is {} with room for an answer; shorten it", tokens,
          context);
}

int64_t ModelConfig::parameters() const {
  const int64_t attention = hidden * head_dim * (2 * heads + 2 * kv_heads);
  const int64_t mlp = 3 * hidden * inner;
  return vocab_size * hidden * (tied_embeddings ? 1 : 2) + layers * (attention + mlp);
}

void validate(const ModelConfig& config) {
  require(find_hf_family(config.architecture) != nullptr || find_gguf_family(config.architecture) != nullptr,
          "the model's architecture is \"{}\"; supported are {}", config.architecture.substr(0, 100),
          known_hf_families());
  check_sizes(config);
  check_rope(config);
  check_tokens(config);
}

}  // namespace shadowkv
