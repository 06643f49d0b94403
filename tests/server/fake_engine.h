// An engine without a model: tokens are bytes, and one more that texts leave out.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "shadowkv/service.h"

namespace shadowkv::testing {

class FakeEngine final : public Engine {
 public:
  static constexpr int32_t kHidden = 256;
  static constexpr std::string_view kHiddenText = "[TOOL_CALLS]";

  explicit FakeEngine(bool has_tokenizer = true) { info_.has_tokenizer = has_tokenizer; }

  [[nodiscard]] const ModelInfo& model() const override { return info_; }
  [[nodiscard]] bool is_eos(int32_t id) const override { return id == 0; }
  [[nodiscard]] std::vector<int32_t> tokenize(std::string_view text) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      const bool is_hidden = text.starts_with(kHiddenText);
      ids.push_back(is_hidden ? kHidden : static_cast<unsigned char>(text[0]));
      text.remove_prefix(is_hidden ? kHiddenText.size() : 1);
    }
    return ids;
  }
  [[nodiscard]] std::string detokenize(std::span<const int32_t> ids, bool skip_special) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id < kHidden) text += static_cast<char>(id);
      if (id == kHidden && !skip_special) text += kHiddenText;
    }
    return text;
  }
  [[nodiscard]] std::vector<int32_t> chat_prompt(std::string_view message) const override {
    return tokenize(message);
  }
  // All that the request holds, one part a line.
  [[nodiscard]] std::vector<int32_t> chat_prompt(const ChatRequest& request) const override {
    std::vector<int32_t> ids;
    for (const std::string& part : {request.messages, request.tools, request.variables}) {
      for (const char c : part + "\n") ids.push_back(static_cast<unsigned char>(c));
    }
    return ids;
  }
  [[nodiscard]] std::function<std::string(int32_t)> streaming_detokenizer() const override { return {}; }
  GenerateResult generate(const GenerateRequest& /*request*/, const TokenCallback& /*on_token*/) override {
    return {};
  }
  [[nodiscard]] std::unique_ptr<Conversation> converse(const AttentionConfig& /*attention*/) override {
    return nullptr;
  }
  [[nodiscard]] Sampler make_sampler(const SamplingParams& /*params*/, std::span<const int32_t> /*prompt*/,
                                     bool /*ignore_eos*/) const override {
    throw InvalidInput("there is no model");
  }
  [[nodiscard]] std::unique_ptr<Session> open(std::span<const AttentionConfig> /*methods*/) override {
    return nullptr;
  }
  [[nodiscard]] std::unique_ptr<Service> serve(const ServiceOptions& /*options*/) override { return nullptr; }
  [[nodiscard]] ResolvedAttention resolve(const AttentionConfig& /*config*/) const override { return {}; }
  [[nodiscard]] SequenceFootprint footprint(const AttentionConfig& /*config*/,
                                            int64_t /*tokens*/) const override {
    return {};
  }
  [[nodiscard]] EngineMemory memory() const override { return {}; }

 private:
  ModelInfo info_ = {.name = "fake", .architecture = "none", .vocab_size = 257, .context = 4096};
};

}  // namespace shadowkv::testing
