// GGUF metadata -> ModelConfig.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "formats/dequantize.h"
#include "formats/gguf.h"
#include "formats/quote.h"
#include "model/config.h"
#include "model/families.h"
#include "model/rope_scaling.h"

namespace shadowkv {
namespace {

// The keys that begin with the file's architecture.
class ArchitectureKeys {
 public:
  ArchitectureKeys(const GgufFile& file, std::string architecture)
      : file_(file), architecture_(std::move(architecture)) {}

  [[nodiscard]] int64_t integer(const char* key) const { return file_.get<int64_t>(full(key)); }
  [[nodiscard]] int64_t integer_or(const char* key, int64_t fallback) const {
    return file_.get_or<int64_t>(full(key), fallback);
  }
  [[nodiscard]] double real(const char* key) const { return file_.get<double>(full(key)); }
  [[nodiscard]] double real_or(const char* key, double fallback) const {
    return file_.get_or<double>(full(key), fallback);
  }
  [[nodiscard]] std::string text_or(const char* key, const char* fallback) const {
    return file_.get_or<std::string>(full(key), fallback);
  }

  [[nodiscard]] std::string full(const char* key) const { return fmt::format("{}.{}", architecture_, key); }

 private:
  const GgufFile& file_;
  std::string architecture_;
};

// What would change the arithmetic and is not done here must be refused, not ignored.
void refuse_unsupported(const GgufFile& file, const ArchitectureKeys& keys) {
  const std::string path = file.path().string();
  require(keys.integer_or("expert_count", 0) == 0,
          "{}: {} is not 0; supported is one MLP per layer, without experts", path,
          keys.full("expert_count"));
}

void refuse_windows(const GgufFile& file, const ArchitectureKeys& keys, int64_t context) {
  const int64_t window = keys.integer_or("attention.sliding_window", 0);
  require(window == 0 || window >= context,
          "{}: {} is {} and the context {}; supported is attention over the whole context",
          file.path().string(), keys.full("attention.sliding_window"), window, context);
}

void read_heads(const GgufFile& file, const ArchitectureKeys& keys, ModelConfig& config) {
  config.heads = keys.integer("attention.head_count");
  require(config.heads >= 1, "{}: {} is {}, it must be positive", file.path().string(),
          keys.full("attention.head_count"), config.heads);
  config.kv_heads = keys.integer_or("attention.head_count_kv", config.heads);
  config.head_dim = keys.integer_or("attention.key_length", 0);
  if (config.head_dim == 0) {
    require(config.hidden % config.heads == 0, "{}: {} {} is not a multiple of {} {} and {} is absent",
            file.path().string(), keys.full("embedding_length"), config.hidden,
            keys.full("attention.head_count"), config.heads, keys.full("attention.key_length"));
    config.head_dim = config.hidden / config.heads;
  }
  const int64_t value_length = keys.integer_or("attention.value_length", config.head_dim);
  require(value_length == config.head_dim,
          "{}: {} is {} and keys have {}; supported are values as long as keys", file.path().string(),
          keys.full("attention.value_length"), value_length, config.head_dim);
}

constexpr const char* kDivisors = "rope_freqs.weight";

// What the tensor of divisors holds, as converters write it for Llama 3.1's rule.
std::vector<float> read_divisors(const GgufFile& file, const GgufTensor& tensor) {
  require(tensor.type == GgufType::f32 && tensor.shape.size() == 1,
          "{}: the tensor {} is not a row of F32 numbers; supported are those", file.path().string(),
          in_quotes(kDivisors));
  std::vector<float> divisors(static_cast<std::size_t>(tensor.shape[0]));
  dequantize(tensor.type, tensor.data, divisors);
  return divisors;
}

constexpr const char* kShortDivisors = "rope_factors_short.weight";
constexpr const char* kLongDivisors = "rope_factors_long.weight";

// Both of them, or none.
void read_longrope(const GgufFile& file, const ArchitectureKeys& keys, RopeConfig& rope) {
  const GgufTensor* shorts = file.find_tensor(kShortDivisors);
  const GgufTensor* longs = file.find_tensor(kLongDivisors);
  if (!shorts && !longs) return;
  const std::string path = file.path().string();
  require(shorts && longs && rope.divisors.empty(),
          "{}: RoPE is scaled by {} or {} alone, or otherwise too; supported are these two together", path,
          in_quotes(kShortDivisors), in_quotes(kLongDivisors));
  scale_by_longrope(rope,
                    {.short_divisors = read_divisors(file, *shorts),
                     .long_divisors = read_divisors(file, *longs),
                     .context = keys.integer("context_length"),
                     .original_context = keys.integer("rope.scaling.original_context_length"),
                     .attention_factor = keys.real_or("rope.scaling.attn_factor", 0)},
                    path);
}

// What these keys multiply by, in effect, is as though they were absent.
void refuse_other_yarn(const ArchitectureKeys& keys, const std::string& path) {
  constexpr std::pair<const char*, double> kSupported[] = {{"rope.scaling.attn_factor", 1},
                                                           {"rope.scaling.yarn_attn_factor", 1},
                                                           {"rope.scaling.yarn_ext_factor", 1},
                                                           {"rope.scaling.yarn_log_multiplier", 0}};
  for (const auto& [key, supported] : kSupported) {
    const double found = keys.real_or(key, supported);
    require(found == supported, "{}: {} is {}; supported is YaRN with {}", path, keys.full(key), found,
            supported);
  }
}

void read_yarn(const ArchitectureKeys& keys, double factor, const std::string& path, ModelConfig& config) {
  refuse_other_yarn(keys, path);
  const YarnScaling yarn{
      .factor = factor,
      .original_context = keys.integer_or("rope.scaling.original_context_length", config.context),
      .beta_fast = keys.real_or("rope.scaling.yarn_beta_fast", 32),
      .beta_slow = keys.real_or("rope.scaling.yarn_beta_slow", 1)};
  scale_by_yarn(config.rope, yarn, path);
  config.context = std::max(config.context, stretched_context(yarn.original_context, yarn.factor));
}

// A factor without a type counts as linear, as where these files come from. May stretch the context.
void read_rope(const GgufFile& file, const ArchitectureKeys& keys, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  const std::string path = file.path().string();
  const double factor = keys.real_or("rope.scaling.factor", keys.real_or("rope.scale_linear", 1.0));
  const std::string type = keys.text_or("rope.scaling.type", "linear");
  const bool is_long = type == "longrope" && file.find_tensor(kLongDivisors) != nullptr;
  require(type == "none" || type == "linear" || type == "yarn" || is_long,
          "{}: {} is {}; supported are \"none\", \"linear\", \"yarn\", and \"longrope\" with its tensors",
          path, keys.full("rope.scaling.type"), in_quotes(type));
  if (type == "yarn") read_yarn(keys, factor, path, config);
  if (type == "linear" && factor != 0) rope.divisors = linear_divisors(rope, factor, path);
  const GgufTensor* divisors = file.find_tensor(kDivisors);
  if (!divisors) return read_longrope(file, keys, rope);
  require(rope.divisors.empty(),
          "{}: RoPE is scaled by a factor and by the tensor {}; supported is one of them", path,
          in_quotes(kDivisors));
  rope.divisors = read_divisors(file, *divisors);
}

int64_t vocab_size(const GgufFile& file, const ArchitectureKeys& keys) {
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  return keys.integer_or("vocab_size", embedding ? embedding->shape.front() : 0);
}

bool has_qkv_bias(const GgufFile& file, const Family& family) {
  const bool told = file.find_tensor("blk.0.attn_q.bias") || file.find_tensor("blk.0.attn_qkv.bias");
  return family.qkv_bias == Has::always || (family.qkv_bias == Has::as_told && told);
}

int64_t default_rotary_dim(const Family& family, const ModelConfig& config) {
  const double share = family.rotary_share == 0 ? 1.0 : family.rotary_share;
  return static_cast<int64_t>(static_cast<double>(config.head_dim) * share);
}

// The end of a turn is an end of an answer too, where a file names both.
void read_tokens(const GgufFile& file, ModelConfig& config) {
  config.bos_token = file.get_or<int64_t>("tokenizer.ggml.bos_token_id", -1);
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    if (!file.find(key)) continue;
    const auto token = file.get<int64_t>(key);
    const bool is_new = std::count(config.eos_tokens.begin(), config.eos_tokens.end(), token) == 0;
    if (is_new) config.eos_tokens.push_back(token);
  }
}

}  // namespace

ModelConfig config_from_gguf(const GgufFile& file) {
  const std::string path = file.path().string();
  ModelConfig config;
  config.architecture = file.get<std::string>("general.architecture");
  const Family* family = find_gguf_family(config.architecture);
  require(family != nullptr, "{}: general.architecture is {}; supported are {}", path,
          in_quotes(config.architecture), known_gguf_families());
  const ArchitectureKeys keys(file, config.architecture);
  refuse_unsupported(file, keys);
  config.name = file.get_or<std::string>("general.name", file.path().stem().string());
  config.vocab_size = vocab_size(file, keys);
  config.hidden = keys.integer("embedding_length");
  config.layers = keys.integer("block_count");
  read_heads(file, keys, config);
  config.inner = keys.integer("feed_forward_length");
  config.context = keys.integer("context_length");
  config.rms_eps = keys.real("attention.layer_norm_rms_epsilon");
  config.tied_embeddings = !file.find_tensor("output.weight");
  config.qkv_bias = has_qkv_bias(file, *family);
  config.head_norms = family->head_norms;
  config.post_norms = family->post_norms;
  config.rope.theta = keys.real_or("rope.freq_base", config.rope.theta);
  config.rope.rotary_dim = keys.integer_or("rope.dimension_count", default_rotary_dim(*family, config));
  read_rope(file, keys, config);
  refuse_windows(file, keys, config.context);
  config.rope.interleaved = family->neighbours_gguf;  // as these files have the rows of q and k
  read_tokens(file, config);
  try {
    validate(config);
  } catch (const InvalidInput& error) {
    throw InvalidInput(fmt::format("{}: {}", path, error.what()));
  }
  return config;
}

}  // namespace shadowkv
