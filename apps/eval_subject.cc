#include "eval_subject.h"

#include <fmt/format.h>

#include <algorithm>

#include "divergence.h"
#include "interrupt.h"
#include "progress.h"

namespace shadowkv::apps {
namespace {

// Gives back what a sequence holds, however its answers end.
class HeldSequence {
 public:
  HeldSequence(Session& session, int64_t max_tokens) : session_(session), id_(session.add(max_tokens)) {}
  ~HeldSequence() { session_.remove(id_); }
  HeldSequence(const HeldSequence&) = delete;
  HeldSequence& operator=(const HeldSequence&) = delete;
  [[nodiscard]] SequenceId id() const { return id_; }

 private:
  Session& session_;
  SequenceId id_;
};

// Ids of the answer after its first token, greedily, until an end token or the most that may come.
std::vector<int32_t> decode_answer(const Engine& engine, Session& session, int64_t method,
                                   SequenceToken token, int64_t max_new_tokens) {
  std::vector<int32_t> ids{token.token};
  while (!engine.is_eos(ids.back()) && static_cast<int64_t>(ids.size()) < max_new_tokens) {
    check_interrupted();
    token.token = ids.back();
    ids.push_back(session.decode_greedy(method, {&token, 1}).front());
  }
  return ids;
}

}  // namespace

EngineSubject::EngineSubject(Engine& engine, const EngineOptions& options, std::vector<NamedMethod> methods,
                             bool chat)
    : engine_(engine), methods_(std::move(methods)), chat_(chat) {
  const std::string source = (options.shape.empty() ? options.model.filename().string() : options.shape);
  name_ = fmt::format("{} {} {}{}", source, options.dtype, options.device, chat ? " chat" : "");
  for (const NamedMethod& method : methods_) labels_.push_back(method.label);
}

std::vector<int32_t> EngineSubject::encode(const eval::Prompt& prompt) const {
  if (!chat_ || !prompt.frame) return engine_.tokenize(prompt.question + prompt.answer_prefix);
  std::vector<int32_t> ids = engine_.chat_prompt(prompt.question);
  const std::vector<int32_t> prefix = engine_.tokenize(prompt.answer_prefix);
  // What the tokenizer puts before every text stands before the frame already.
  const std::vector<int32_t> nothing = engine_.tokenize("");
  const bool added =
      prefix.size() >= nothing.size() && std::equal(nothing.begin(), nothing.end(), prefix.begin());
  ids.insert(ids.end(), prefix.begin() + (added ? static_cast<std::ptrdiff_t>(nothing.size()) : 0),
             prefix.end());
  return ids;
}

Session& EngineSubject::session_of(std::span<const int64_t> methods) {
  if (session_ && std::equal(methods.begin(), methods.end(), open_methods_.begin(), open_methods_.end())) {
    return *session_;
  }
  session_.reset();
  std::vector<AttentionConfig> configs;
  for (const int64_t method : methods)
    configs.push_back(methods_.at(static_cast<std::size_t>(method)).config);
  session_ = engine_.open(configs);
  open_methods_.assign(methods.begin(), methods.end());
  return *session_;
}

std::vector<eval::Answer> EngineSubject::answer(std::span<const int32_t> ids,
                                                std::span<const int64_t> methods, int64_t max_new_tokens) {
  Session& session = session_of(methods);
  const HeldSequence sequence(session, static_cast<int64_t>(ids.size()) + max_new_tokens);
  const Stopwatch reading;
  std::vector<float> logits;
  {
    ProgressBar bar("reading the prompt");
    logits = session.prefill(sequence.id(), ids, bar.callback());
  }
  const double prefill_seconds = reading.seconds();
  const SequenceToken first{sequence.id(), static_cast<int32_t>(argmax(logits))};
  std::vector<eval::Answer> answers;
  for (std::size_t i = 0; i < methods.size(); ++i) {
    const auto method = static_cast<int64_t>(i);
    const Stopwatch decoding;
    const std::vector<int32_t> tokens = decode_answer(engine_, session, method, first, max_new_tokens);
    const double seconds = decoding.seconds();
    const SessionStatistics statistics = session.statistics(method);
    answers.push_back({engine_.detokenize(tokens), static_cast<int64_t>(tokens.size()), prefill_seconds,
                       seconds, statistics.held_bytes[0], statistics.held_bytes[1]});
  }
  return answers;
}

}  // namespace shadowkv::apps
