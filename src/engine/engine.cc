// The public Engine: a model, its tokenizer and a device, and generation on top of a session.
#include <algorithm>

#include "base/check.h"
#include "engine/answer_text.h"
#include "engine/constraint_cache.h"
#include "engine/conversation.h"
#include "engine/device_choice.h"
#include "engine/model_service.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "formats/gguf.h"
#include "model/weights.h"
#include "shadowkv/shadowkv.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv {
namespace {

void check_source(const EngineOptions& options) {
  require(options.model.empty() != options.shape.empty(),
          "{}; give a model file or folder, or the name of a shape",
          options.model.empty() ? "no model was named" : "both a model and a shape were named");
}

ModelConfig read_config(const EngineOptions& options) {
  check_source(options);
  if (!options.shape.empty()) return config_from_shape_name(options.shape);
  if (std::filesystem::is_directory(options.model)) return config_from_hf_folder(options.model);
  return config_from_gguf(GgufFile(options.model));
}

// nullopt where the model came without one.
std::optional<std::filesystem::path> tokenizer_file(const EngineOptions& options) {
  if (!options.tokenizer.empty()) return Tokenizer::file_at(options.tokenizer);
  if (options.model.empty()) return std::nullopt;
  if (!std::filesystem::is_directory(options.model)) return options.model;
  return Tokenizer::find_file(options.model);
}

ModelInfo info_of(const ModelConfig& config, bool has_tokenizer) {
  return {.name = config.name,
          .architecture = config.architecture,
          .layers = config.layers,
          .hidden = config.hidden,
          .heads = config.heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .inner = config.inner,
          .vocab_size = config.vocab_size,
          .context = config.context,
          .parameters = config.parameters(),
          .tied_embeddings = config.tied_embeddings,
          .has_tokenizer = has_tokenizer};
}

SequenceFootprint footprint_of(const ModelConfig& model, DType compute, const AttentionConfig& config,
                               int64_t tokens) {
  require(tokens >= 1, "the footprint of {} tokens was asked for; it must be at least 1", tokens);
  const std::unique_ptr<Device> device = make_cpu_device({.threads = 1});
  const AttentionShape shape = attention_shape(model, compute);
  const auto prefill = std::make_shared<ExactPrefill>(shape, *device);
  const AttentionConfig resolved = resolve(config, shape, std::max(tokens, model.context), nullptr);
  const Footprint bytes = make_attention(resolved, shape, prefill, *device)->footprint(tokens);
  return {.device = bytes.device, .host = bytes.pinned_host, .either = bytes.either};
}

ResolvedAttention resolve_for(const ModelConfig& model, DType compute, const AttentionConfig& config) {
  ResolvedAttention resolved;
  resolved.config = resolve(config, attention_shape(model, compute), model.context, &resolved.notes);
  return resolved;
}

class LoadedEngine final : public Engine {
 public:
  LoadedEngine(const EngineOptions& options, const Progress& progress)
      : compute_(compute_dtype(options.dtype)), device_(make_device(options)) {
    check_source(options);
    require(device_->kind() == DeviceKind::cpu || compute_ == DType::bf16,
            "dtype = float32 was asked for on a GPU, which computes in bfloat16; leave dtype out or take "
            "device = cpu");
    load_tokenizer(options);
    if (options.shape.empty()) {
      loaded_ = load_model(options.model, matrix_dtype(options), *device_, progress);
    } else {
      loaded_.config = config_from_shape_name(options.shape);
      loaded_.weights = random_weights(loaded_.config, matrix_dtype(options), *device_, options.seed);
    }
    check_vocabulary();
    info_ = info_of(loaded_.config, tokenizer_ != nullptr);
    constraints_ = std::make_shared<ConstraintCache>(tokenizer_, loaded_.config.eos_tokens, info_.vocab_size);
    transformer_ = std::make_unique<Transformer>(loaded_.config, loaded_.weights, *device_);
  }

  [[nodiscard]] const ModelInfo& model() const override { return info_; }
  [[nodiscard]] bool is_eos(int32_t id) const override { return loaded_.config.is_eos(id); }

  [[nodiscard]] std::vector<int32_t> tokenize(std::string_view text) const override {
    return tokenizer().encode(text);
  }
  [[nodiscard]] std::string detokenize(std::span<const int32_t> ids, bool skip_special) const override {
    return tokenizer().decode(ids, skip_special);
  }
  [[nodiscard]] std::vector<int32_t> chat_prompt(std::string_view user_message) const override {
    const ChatMessage message{.role = "user", .content = std::string(user_message)};
    return chat_prompt(ChatRequest{.messages = messages_json({&message, 1})});
  }
  [[nodiscard]] std::vector<int32_t> chat_prompt(const ChatRequest& request) const override {
    const Tokenizer& known = tokenizer();
    require(template_problem_.empty(), "{}", template_problem_);
    return encode_chat(known, chat_template_ ? &*chat_template_ : nullptr, request);
  }
  [[nodiscard]] std::function<std::string(int32_t)> streaming_detokenizer() const override {
    (void)tokenizer();  // refuses a model without one
    return [stream = StreamingDetokenizer(tokenizer_, true)](int32_t id) mutable {
      return id < 0 ? stream.finish() : stream.add(id);
    };
  }

  GenerateResult generate(const GenerateRequest& request, const TokenCallback& on_token) override {
    return ModelConversation(conversation_parts(), request.attention, false).answer(request, on_token);
  }
  [[nodiscard]] std::unique_ptr<Conversation> converse(const AttentionConfig& attention) override {
    return std::make_unique<ModelConversation>(conversation_parts(), attention, true);
  }
  [[nodiscard]] Sampler make_sampler(const SamplingParams& params, std::span<const int32_t> prompt,
                                     bool ignore_eos) const override {
    check_sampling(params, {.vocab = info_.vocab_size,
                            .max_new_tokens = info_.context,
                            .has_tokenizer = tokenizer_ != nullptr,
                            .ignore_eos = ignore_eos});
    return Sampler(params, {.prompt = prompt,
                            .end_tokens = ends_of(params, ignore_eos).ids,
                            .constraint = constraints_->find(params)});
  }
  [[nodiscard]] std::unique_ptr<Session> open(std::span<const AttentionConfig> methods) override {
    return std::make_unique<ModelSession>(loaded_.config, compute_, *transformer_, *device_, methods);
  }
  [[nodiscard]] std::unique_ptr<Service> serve(const ServiceOptions& options) override {
    return std::make_unique<ModelService>(ServiceParts{.model = loaded_.config,
                                                       .compute = compute_,
                                                       .transformer = *transformer_,
                                                       .device = *device_,
                                                       .tokenizer = tokenizer_,
                                                       .constraints = constraints_,
                                                       .memory = [this] { return memory(); }},
                                          options);
  }
  [[nodiscard]] ResolvedAttention resolve(const AttentionConfig& config) const override {
    return resolve_for(loaded_.config, compute_, config);
  }
  [[nodiscard]] SequenceFootprint footprint(const AttentionConfig& config, int64_t tokens) const override {
    return footprint_of(loaded_.config, compute_, config, tokens);
  }
  [[nodiscard]] EngineMemory memory() const override;

 private:
  [[nodiscard]] const Tokenizer& tokenizer() const {
    require(tokenizer_ != nullptr, "the model \"{}\" came without a tokenizer; name one with --tokenizer",
            info_.name);
    return *tokenizer_;
  }
  void check_vocabulary() const {
    require(!tokenizer_ || tokenizer_->vocab_size() <= loaded_.config.vocab_size,
            "the tokenizer has {} tokens, the model only {}; they do not belong together",
            tokenizer_ ? tokenizer_->vocab_size() : 0, loaded_.config.vocab_size);
  }
  void load_tokenizer(const EngineOptions& options);
  [[nodiscard]] ConversationParts conversation_parts() {
    return {.engine = *this,
            .model = loaded_.config,
            .tokenizer = tokenizer_,
            .prompt_ids = [this](const GenerateRequest& request) { return prompt_ids(request); }};
  }
  [[nodiscard]] std::vector<int32_t> prompt_ids(const GenerateRequest& request) const;
  [[nodiscard]] AnswerEnds ends_of(const SamplingParams& params, bool ignore_eos) const {
    return answer_ends(params, loaded_.config.eos_tokens, ignore_eos);
  }

  DType compute_;
  std::unique_ptr<Device> device_;
  LoadedModel loaded_;
  std::shared_ptr<const Tokenizer> tokenizer_;  // may be null
  std::optional<ChatTemplate> chat_template_;   // of the tokenizer's files
  std::string template_problem_;                // why there is none though there should be
  ModelInfo info_;
  std::shared_ptr<ConstraintCache> constraints_;
  std::unique_ptr<Transformer> transformer_;
};

// A model whose own template cannot be read is good for all but chats.
void LoadedEngine::load_tokenizer(const EngineOptions& options) {
  const std::optional<std::filesystem::path> file = tokenizer_file(options);
  if (!file) return;
  tokenizer_ = Tokenizer::open(*file);
  try {
    chat_template_ = find_chat_template(*file, options.chat_template);
  } catch (const InvalidInput& error) {
    if (!options.chat_template.empty()) throw;
    template_problem_ = error.what();
  }
}

std::vector<int32_t> LoadedEngine::prompt_ids(const GenerateRequest& request) const {
  std::vector<int32_t> ids = request.prompt_ids.empty() ? std::vector<int32_t>() : request.prompt_ids;
  if (ids.empty() && !request.prompt.empty()) ids = tokenize(request.prompt);
  loaded_.config.check_prompt(std::ssize(ids));
  return ids;
}

EngineMemory LoadedEngine::memory() const {
  const MemoryUse use = device_->memory();
  EngineMemory memory;
  for (int tier = 0; tier < kTiers; ++tier) {
    const auto t = static_cast<std::size_t>(tier);
    memory.held[t] = use.held(static_cast<Tier>(tier));
    memory.peak[t] = use.peak[t];
    memory.budget[t] = use.budget[t];
  }
  for (int purpose = 0; purpose < kPurposes; ++purpose) {
    const auto p = static_cast<Purpose>(purpose);
    memory.by_purpose.emplace_back(
        name_of(p), std::array<int64_t, 2>{use.of(Tier::device, p), use.of(Tier::pinned_host, p)});
  }
  return memory;
}

}  // namespace

std::string_view version() {
  return SHADOWKV_VERSION;
}

std::string_view name_of(FinishReason reason) {
  constexpr std::string_view kNames[] = {"stop", "length", "cancelled"};
  return kNames[static_cast<int>(reason)];
}

ModelInfo read_model_info(const EngineOptions& options) {
  const ModelConfig config = read_config(options);
  const std::optional<std::filesystem::path> tokenizer = tokenizer_file(options);
  return info_of(config, tokenizer && Tokenizer::open(*tokenizer) != nullptr);
}

SequenceFootprint footprint(const EngineOptions& options, const AttentionConfig& config, int64_t tokens) {
  return footprint_of(read_config(options), compute_dtype(options.dtype), config, tokens);
}

ResolvedAttention resolve(const EngineOptions& options, const AttentionConfig& config) {
  return resolve_for(read_config(options), compute_dtype(options.dtype), config);
}

std::unique_ptr<Engine> Engine::load(const EngineOptions& options, const Progress& progress) {
  return std::make_unique<LoadedEngine>(options, progress);
}

}  // namespace shadowkv
