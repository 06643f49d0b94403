// A loaded model as an evaluation asks it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "eval/runner.h"
#include "methods.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

// Answers under several methods behind one exact prefill.
class EngineSubject final : public eval::Subject {
 public:
  // `chat`: the question as a user's message in the model's chat format, the answer's prefix after its
  // header.
  EngineSubject(Engine& engine, const EngineOptions& options, std::vector<NamedMethod> methods, bool chat);

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] const std::vector<std::string>& methods() const override { return labels_; }
  [[nodiscard]] int64_t context() const override { return engine_.model().context; }
  [[nodiscard]] std::vector<int32_t> encode(const eval::Prompt& prompt) const override;
  [[nodiscard]] std::vector<eval::Answer> answer(std::span<const int32_t> ids,
                                                 std::span<const int64_t> methods,
                                                 int64_t max_new_tokens) override;
  [[nodiscard]] std::vector<eval::Answer> converse(std::span<const eval::Prompt> turns, int64_t method,
                                                   int64_t max_new_tokens) override;

 private:
  Session& session_of(std::span<const int64_t> methods);
  [[nodiscard]] std::vector<int32_t> with_prefix(std::vector<int32_t> ids, const std::string& prefix) const;

  Engine& engine_;
  std::string name_;
  std::vector<NamedMethod> methods_;
  std::vector<std::string> labels_;
  bool chat_;
  std::vector<int64_t> open_methods_;  // of the session
  std::unique_ptr<Session> session_;
};

}  // namespace shadowkv::apps
