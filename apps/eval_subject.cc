#include "eval_subject.h"

#include <fmt/format.h>

#include <algorithm>

#include "divergence.h"
#include "interrupt.h"
#include "json_output.h"
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
  const std::string weights = options.weights == "dtype" ? "" : fmt::format(" {}-weights", options.weights);
  name_ = fmt::format("{} {}{} {}{}", source, options.dtype, weights, options.device, chat ? " chat" : "");
  for (const NamedMethod& method : methods_) labels_.push_back(method.label);
}

std::vector<int32_t> EngineSubject::encode(const eval::Prompt& prompt) const {
  if (!chat_ || !prompt.frame) return engine_.tokenize(prompt.question + prompt.answer_prefix);
  return with_prefix(engine_.chat_prompt(prompt.question), prompt.answer_prefix);
}

// A text behind what stands there already, what the tokenizer puts before every text included.
std::vector<int32_t> EngineSubject::with_prefix(std::vector<int32_t> ids, const std::string& text) const {
  const std::vector<int32_t> more = engine_.tokenize(text), nothing = engine_.tokenize("");
  const bool added =
      more.size() >= nothing.size() && std::equal(nothing.begin(), nothing.end(), more.begin());
  ids.insert(ids.end(), more.begin() + (added ? std::ssize(nothing) : 0), more.end());
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

// Texts go on behind each other; chats are laid out as a whole, each answer as the text that it was.
std::vector<eval::Answer> EngineSubject::converse(std::span<const eval::Prompt> turns, int64_t method,
                                                  int64_t max_new_tokens) {
  const std::unique_ptr<Conversation> conversation =
      engine_.converse(methods_.at(static_cast<std::size_t>(method)).config);
  std::vector<eval::Answer> answers;
  Json messages = Json::array();
  std::vector<int32_t> said;
  for (const eval::Prompt& turn : turns) {
    GenerateRequest request;
    request.max_new_tokens = max_new_tokens;
    if (chat_ && turn.frame) {
      messages.push_back({{"role", "user"}, {"content", turn.question}});
      request.prompt_ids = with_prefix(engine_.chat_prompt({.messages = dump(messages)}), turn.answer_prefix);
    } else {
      request.prompt_ids =
          answers.empty() ? encode(turn) : with_prefix(said, turn.question + turn.answer_prefix);
    }
    const GenerateResult result = conversation->answer(request, [](const TokenEvent&) {
      check_interrupted();
      return true;
    });
    said = conversation->ids();
    if (engine_.is_eos(said.back())) said.pop_back();
    const SessionStatistics& held = result.statistics;
    answers.push_back({engine_.detokenize(result.ids), std::ssize(result.ids), result.ttft_s, result.decode_s,
                       held.held_bytes[0], held.held_bytes[1]});
    messages.push_back({{"role", "assistant"}, {"content", turn.answer_prefix + answers.back().output}});
  }
  return answers;
}

}  // namespace shadowkv::apps
