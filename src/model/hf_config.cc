// A Hugging Face folder's config.json and generation_config.json -> ModelConfig.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/check.h"
#include "formats/json.h"
#include "formats/quote.h"
#include "model/config.h"
#include "model/families.h"
#include "model/rope_scaling.h"

namespace shadowkv {
namespace {

using Json = nlohmann::json;

std::string shown(const Json& value) {
  return in_quotes(json_text(value));
}

// Typed access to one object; `where` names the file, and the object within it, in messages. A key with the
// value null counts as absent. Keys are the usual ones, looked for under the names that `names` has for them.
class Fields {
 public:
  Fields(const Json& object, std::string where, std::span<const FieldName> names = {})
      : object_(object), where_(std::move(where)), names_(names) {
    require(object.is_object(), "{} is not an object", where_);
  }

  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] std::string_view name_of(std::string_view usual) const {
    const auto found = std::find_if(names_.begin(), names_.end(),
                                    [&](const FieldName& name) { return name.usual == usual; });
    return found == names_.end() ? usual : found->here;
  }
  [[nodiscard]] const Json* find(const char* key) const {
    const auto found = object_.find(name_of(key));
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  [[nodiscard]] const Json& need(const char* key) const {
    const Json* value = find(key);
    require(value != nullptr, "{} has no {}", where_, in_quotes(name_of(key)));
    return *value;
  }
  [[nodiscard]] int64_t integer(const char* key) const { return to_integer(key, need(key)); }
  [[nodiscard]] int64_t integer_or(const char* key, int64_t fallback) const {
    const Json* value = find(key);
    return value ? to_integer(key, *value) : fallback;
  }
  [[nodiscard]] double real(const char* key) const { return to_real(key, need(key)); }
  [[nodiscard]] double real_or(const char* key, double fallback) const {
    const Json* value = find(key);
    return value ? to_real(key, *value) : fallback;
  }
  [[nodiscard]] bool flag_or(const char* key, bool fallback) const {
    const Json* value = find(key);
    if (!value) return fallback;
    require(value->is_boolean(), "{}: {} is {}, expected true or false", where_, name_of(key), shown(*value));
    return value->get<bool>();
  }
  [[nodiscard]] std::string text_or(const char* key, const char* fallback) const {
    const Json* value = find(key);
    if (!value) return fallback;
    require(value->is_string(), "{}: {} is {}, expected a string", where_, name_of(key), shown(*value));
    return value->get<std::string>();
  }
  [[nodiscard]] double to_real(const char* key, const Json& value) const {
    require(value.is_number(), "{}: {} is {}, expected a number", where_, name_of(key), shown(value));
    return value.get<double>();
  }
  [[nodiscard]] int64_t to_integer(const char* key, const Json& value) const {
    const bool fits =
        value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
    require(fits, "{}: {} is {}, expected an integer", where_, name_of(key), shown(value));
    return value.get<int64_t>();
  }

 private:
  const Json& object_;
  std::string where_;
  std::span<const FieldName> names_;
};

// What would change the arithmetic and is not done here must be refused, not ignored.
void refuse_unsupported(const Fields& fields, const Family& family) {
  const std::string activation = fields.text_or("hidden_act", "silu");
  require(activation == "silu", "{}: hidden_act is {}; supported is: silu", fields.where(),
          in_quotes(activation));
  require(!fields.flag_or("mlp_bias", false), "{}: {} is true; supported are MLPs without bias",
          fields.where(), fields.name_of("mlp_bias"));
  for (const auto& [key, supported, absent] : family.flags) {
    require(fields.flag_or(key, absent) == supported, "{}: {} is {}; supported is {}", fields.where(), key,
            !supported, supported);
  }
  require(!fields.find("quantization_config"),
          "{}: quantization_config is set; supported are plain F32, F16 and BF16 weights", fields.where());
}

// A window that ends within the context is refused: every layer here attends over all that is before.
void refuse_windows(const Fields& fields, const Family& family, int64_t context) {
  if (!fields.flag_or("use_sliding_window", !family.windows_by_flag)) return;
  const int64_t window = fields.integer_or("sliding_window", context);
  require(window >= context,
          "{}: sliding_window is {} and the context {}; supported is attention over the whole context",
          fields.where(), window, context);
}

bool has_qkv_bias(const Fields& fields, const Family& family) {
  if (family.qkv_bias == Has::always) return true;
  const bool told = fields.flag_or("attention_bias", false);
  require(!told || family.qkv_bias == Has::as_told,
          "{}: attention_bias is true; supported are projections without bias", fields.where());
  return told;
}

// The object with the rule of RoPE; older and newer files call it differently. Absent or empty: none.
std::optional<Fields> rope_fields(const Fields& fields) {
  constexpr const char *kOlder = "rope_scaling", *kNewer = "rope_parameters";
  const auto given = [&](const char* key) {
    const Json* object = fields.find(key);
    return object != nullptr && object->empty() ? nullptr : object;
  };
  const Json *older = given(kOlder), *newer = given(kNewer);
  if (!older && !newer) return std::nullopt;
  require(!older || !newer || *older == *newer,
          "{}: {} and {} are both set and differ; keep the one that holds", fields.where(), kOlder, kNewer);
  const Fields rope(older ? *older : *newer, fmt::format("{}: {}", fields.where(), older ? kOlder : kNewer));
  for (const auto& [key, value] : (older ? older : newer)->items()) {
    require(!value.is_object(), "{}: {} is an object; supported is one rule for all layers", rope.where(),
            in_quotes(key));
  }
  return rope;
}

// Numbers of each head that turn, the first ones. The share stands at the top level or beside the rule.
int64_t rotary_dim(const Fields& fields, const std::optional<Fields>& rule, const Family& family,
                   int64_t head_dim) {
  constexpr const char* kShare = "partial_rotary_factor";
  const bool may_differ = family.rotary_share != 0, is_beside = rule && rule->find(kShare);
  const Fields& holder = is_beside ? *rule : fields;
  const double share = holder.real_or(kShare, may_differ ? family.rotary_share : 1.0);
  require(may_differ || share == 1.0, "{}: {} is {}; supported is RoPE over whole heads in this family",
          holder.where(), kShare, share);
  require(share > 0 && share <= 1, "{}: {} is {}, it must be above 0 and at most 1", holder.where(), kShare,
          share);
  return static_cast<int64_t>(static_cast<double>(head_dim) * share);
}

constexpr const char* kContext = "max_position_embeddings";
constexpr const char* kOriginal = "original_max_position_embeddings";

// That of the top level comes first, as where these files come from. top: the object that the rule stands in.
int64_t original_context(const Fields& rule, const Fields& top) {
  return (top.find(kOriginal) ? top : rule).integer_or(kOriginal, top.integer(kContext));
}

// 0: not given.
double attention_factor(const Fields& fields) {
  const double factor = fields.real_or("attention_factor", 0);
  require(!fields.find("attention_factor") || factor > 0, "{}: attention_factor is {}, it must be positive",
          fields.where(), factor);
  return factor;
}

void read_yarn(const Fields& fields, const Fields& top, ModelConfig& config) {
  YarnScaling yarn{.original_context = original_context(fields, top),
                   .beta_fast = fields.real_or("beta_fast", 32),
                   .beta_slow = fields.real_or("beta_slow", 1),
                   .attention_factor = attention_factor(fields),
                   .truncate = fields.flag_or("truncate", true)};
  const double context = static_cast<double>(config.context);
  yarn.factor = fields.real_or("factor", context / static_cast<double>(yarn.original_context));
  const double mscale = fields.real_or("mscale", 0), all_dim = fields.real_or("mscale_all_dim", 0);
  if (yarn.attention_factor == 0 && mscale != 0 && all_dim != 0)
    yarn.attention_factor = yarn_magnitude(yarn.factor, mscale) / yarn_magnitude(yarn.factor, all_dim);
  scale_by_yarn(config.rope, yarn, fields.where());
  config.context = std::max(config.context, stretched_context(yarn.original_context, yarn.factor));
}

// The rule begins where max_position_embeddings end, and reaches further by the factor.
void read_dynamic(const Fields& fields, const Fields& top, ModelConfig& config) {
  const int64_t original = original_context(fields, top);
  require(original == config.context,
          "{}: {} is {} and {} {}; supported is a dynamic rule from the latter on: leave out the first, and "
          "let the second say where the rule begins",
          fields.where(), kOriginal, original, kContext, config.context);
  const double factor = fields.real("factor");
  require(factor >= 1, "{}: factor is {}, it must be at least 1", fields.where(), factor);
  config.context = stretched_context(original, factor);
  scale_by_dynamic(config.rope, {.factor = factor, .original_context = original, .context = config.context},
                   fields.where());
}

std::vector<float> real_list(const Fields& fields, const char* key) {
  const Json& list = fields.need(key);
  require(list.is_array(), "{}: {} is {}, expected a list of numbers", fields.where(), key, shown(list));
  std::vector<float> numbers;
  for (const Json& number : list) numbers.push_back(static_cast<float>(fields.to_real(key, number)));
  return numbers;
}

void read_longrope(const Fields& fields, const Fields& top, RopeConfig& rope) {
  require(fields.find(kOriginal) || top.find(kOriginal), "{} has no {}", fields.where(),
          in_quotes(kOriginal));
  LongRopeScaling longrope{.short_divisors = real_list(fields, "short_factor"),
                           .long_divisors = real_list(fields, "long_factor"),
                           .context = top.integer(kContext),
                           .original_context = original_context(fields, top),
                           .factor = fields.real_or("factor", 0),
                           .attention_factor = attention_factor(fields)};
  scale_by_longrope(rope, longrope, fields.where());
}

void read_llama3(const Fields& fields, const Fields& top, RopeConfig& rope) {
  rope.divisors = llama3_divisors(rope,
                                  {.factor = fields.real("factor"),
                                   .low_freq_factor = fields.real("low_freq_factor"),
                                   .high_freq_factor = fields.real("high_freq_factor"),
                                   .original_context = original_context(fields, top)},
                                  fields.where());
}

void read_rope_rule(const Fields& fields, const Fields& top, ModelConfig& config) {
  const std::string type = fields.text_or("rope_type", fields.text_or("type", "default").c_str());
  if (type == "default") return;
  if (type == "dynamic") return read_dynamic(fields, top, config);
  if (type == "yarn") return read_yarn(fields, top, config);
  if (type == "longrope" || type == "su") return read_longrope(fields, top, config.rope);
  if (type == "llama3") return read_llama3(fields, top, config.rope);
  require(type == "linear",
          "{}: its type is {}; supported are default, linear, dynamic, llama3, yarn and longrope",
          fields.where(), in_quotes(type));
  config.rope.divisors = linear_divisors(config.rope, fields.real("factor"), fields.where());
}

// May stretch the context.
void read_rope(const Fields& fields, const Family& family, ModelConfig& config) {
  const std::optional<Fields> rule = rope_fields(fields);
  config.rope.rotary_dim = rotary_dim(fields, rule, family, config.head_dim);
  config.rope.interleaved = family.neighbours_hf;
  config.rope.theta = fields.real_or("rope_theta", config.rope.theta);
  if (rule) config.rope.theta = rule->real_or("rope_theta", config.rope.theta);
  config.rope.theta *= fields.real_or("rope_ratio", 1.0);
  if (rule) read_rope_rule(*rule, fields, config);
}

void read_heads(const Fields& fields, ModelConfig& config) {
  config.heads = fields.integer("num_attention_heads");
  require(config.heads >= 1, "{}: num_attention_heads is {}, it must be positive", fields.where(),
          config.heads);
  config.kv_heads = fields.integer_or("num_key_value_heads", config.heads);
  config.head_dim = fields.integer_or("head_dim", 0);
  if (config.head_dim != 0) return;
  require(config.hidden % config.heads == 0,
          "{}: hidden_size {} is not a multiple of num_attention_heads {} and head_dim is absent",
          fields.where(), config.hidden, config.heads);
  config.head_dim = config.hidden / config.heads;
}

// eos_token_id is one id or a list of them.
void read_tokens(const Fields& fields, ModelConfig& config) {
  config.bos_token = fields.integer_or("bos_token_id", config.bos_token);
  const Json* eos = fields.find("eos_token_id");
  if (!eos) return;
  config.eos_tokens.clear();
  if (!eos->is_array()) return config.eos_tokens.push_back(fields.to_integer("eos_token_id", *eos));
  for (const Json& token : *eos) config.eos_tokens.push_back(fields.to_integer("eos_token_id", token));
}

ModelConfig read_config(const Json& json, const std::string& where) {
  ModelConfig config;
  config.architecture = Fields(json, where).text_or("model_type", "");
  const Family* family = find_hf_family(config.architecture);
  require(family != nullptr, "{}: model_type is {}; supported are {}", where, in_quotes(config.architecture),
          known_hf_families());
  const Fields fields(json, where, family->fields);
  refuse_unsupported(fields, *family);
  config.vocab_size = fields.integer("vocab_size");
  config.hidden = fields.integer("hidden_size");
  config.layers = fields.integer("num_hidden_layers");
  read_heads(fields, config);
  config.inner = fields.integer("intermediate_size");
  config.context = fields.integer(kContext);
  read_rope(fields, *family, config);
  refuse_windows(fields, *family, config.context);
  config.qkv_bias = has_qkv_bias(fields, *family);
  config.head_norms = family->head_norms;
  config.post_norms = family->post_norms;
  config.rms_eps = fields.real_or("rms_norm_eps", 1e-6);
  config.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
  read_tokens(fields, config);
  return config;
}

// The folder's own name; in a cache of a hub ("models--org--name/snapshots/COMMIT") that of the repository.
std::string name_of_folder(const std::filesystem::path& folder) {
  std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  constexpr std::string_view kPrefix = "models--";
  const std::string repository = path.parent_path().parent_path().filename().string();
  const std::size_t dashes = repository.find("--", kPrefix.size());
  const bool cached = path.parent_path().filename() == "snapshots" && repository.starts_with(kPrefix);
  if (!cached || dashes == std::string::npos) return path.filename().string();
  return fmt::format("{}/{}", repository.substr(kPrefix.size(), dashes - kPrefix.size()),
                     repository.substr(dashes + 2));
}

}  // namespace

ModelConfig config_from_hf_folder(const std::filesystem::path& folder) {
  const std::string where = (folder / "config.json").string();
  ModelConfig config = read_config(*read_json_file(folder / "config.json"), where);
  config.name = name_of_folder(folder);
  const std::filesystem::path generation = folder / "generation_config.json";
  if (std::filesystem::exists(generation)) {
    const JsonDocument json = read_json_file(generation);
    read_tokens(Fields(*json, generation.string()), config);
  }
  try {
    validate(config);
  } catch (const InvalidInput& error) {
    throw InvalidInput(fmt::format("{}: {}", where, error.what()));
  }
  return config;
}

}  // namespace shadowkv
