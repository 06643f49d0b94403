// The loop that makes answers, and what it keeps between two of them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/follow_up.h"
#include "model/config.h"
#include "shadowkv/shadowkv.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv {

// What the loop asks of its engine.
struct ConversationParts {
  Engine& engine;
  const ModelConfig& model;
  std::shared_ptr<const Tokenizer> tokenizer;                              // null: answers have no text
  std::function<std::vector<int32_t>(const GenerateRequest&)> prompt_ids;  // checked against the context
};

class ModelConversation final : public Conversation {
 public:
  // `goes_on`: further prompts will follow, for which a sequence is given room.
  ModelConversation(ConversationParts parts, const AttentionConfig& attention, bool goes_on);
  ~ModelConversation() override;
  ModelConversation& operator=(const ModelConversation&) = delete;

  GenerateResult answer(const GenerateRequest& request, const TokenCallback& on_token) override;
  [[nodiscard]] int64_t held_tokens() const override { return std::ssize(held_); }
  [[nodiscard]] std::vector<int32_t> ids() const override;
  [[nodiscard]] std::unique_ptr<Conversation> fork() const override;
  void save_state(const std::filesystem::path& path, const std::string& note) const override;
  std::string load_state(const std::filesystem::path& path) override;
  void forget() override;

 private:
  ModelConversation(const ModelConversation& other) = default;  // which then both name its sequence
  // What comes behind what the sequence holds.
  struct Next {
    int32_t id = 0;
    std::vector<float> logits = {};  // that it was drawn from, where they are kept
  };
  // How it is drawn.
  struct Draw {
    Sampler& sampler;
    bool keeps_logits = false;  // then on the host, else where the logits lie
    const Progress& progress;
  };
  [[nodiscard]] FollowUp follow_up(std::span<const int32_t> ids, int64_t tokens) const;
  Next take_in(FollowUp how, std::span<const int32_t> ids, const Draw& draw);
  Next step_on(std::span<const int32_t> ids, const Draw& draw);
  Next read(std::span<const int32_t> ids, int64_t tokens, const Draw& draw);
  Next read_rest(std::span<const int32_t> ids, const Draw& draw);
  Next decode(int32_t id, const Draw& draw);

  ConversationParts parts_;
  AttentionConfig attention_;  // resolved
  bool goes_on_;
  std::shared_ptr<Session> session_;  // of all that were forked from each other
  std::optional<SequenceId> sequence_;
  int64_t room_ = 0;           // tokens that it may grow to
  std::vector<int32_t> held_;  // its tokens
  std::vector<int32_t> rest_;  // that were said behind them and are not in the sequence
};

}  // namespace shadowkv
