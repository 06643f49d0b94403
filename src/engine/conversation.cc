#include "engine/conversation.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "engine/answer_text.h"
#include "engine/sampler.h"

namespace shadowkv {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of the turns to come.
constexpr int64_t kLeastSpareTokens = 4096;

// The layers of an answer's steps are shown to whoever asked for them.
class Observing {
 public:
  Observing(Session& session, const LayerObserver& observer) : session_(observer ? &session : nullptr) {
    if (session_ != nullptr) session_->observe(0, observer);
  }
  ~Observing() {
    if (session_ != nullptr) session_->observe(0, {});
  }
  Observing(const Observing&) = delete;
  Observing& operator=(const Observing&) = delete;

 private:
  Session* session_;
};

// An answer as it grows: what it has come to, and whether it goes on.
class GrowingAnswer {
 public:
  GrowingAnswer(AnswerText text, int64_t wanted, GenerateResult& result)
      : text_(std::move(text)), wanted_(wanted), result_(result) {}

  // Takes the next token; false when it is the last.
  bool add(int32_t id, const Sampler& sampler, const TokenCallback& on_token) {
    const std::span<const TokenLogprob> logprobs = sampler.logprobs();
    result_.ids.push_back(id);
    const bool is_end = text_.ends().at(id) || sampler.is_finished();
    const bool is_full = std::ssize(result_.ids) == wanted_;
    const TokenEvent event{
        .id = id, .text = text_.add(id, is_end || is_full), .logprobs = {logprobs.begin(), logprobs.end()}};
    result_.text += event.text;
    if (!logprobs.empty()) result_.logprobs.push_back(event.logprobs);
    const bool goes_on = !on_token || on_token(event);
    const bool stops = is_end || text_.is_stopped();
    result_.finish = stops ? FinishReason::stop : goes_on ? FinishReason::length : FinishReason::cancelled;
    return goes_on && !stops && !is_full;
  }

 private:
  AnswerText text_;
  int64_t wanted_;
  GenerateResult& result_;
};

}  // namespace

ModelConversation::ModelConversation(ConversationParts parts, const AttentionConfig& attention, bool goes_on)
    : parts_(std::move(parts)),
      attention_(parts_.engine.resolve(attention).config),
      goes_on_(goes_on),
      session_(parts_.engine.open({&attention, 1})) {}

ModelConversation::~ModelConversation() {
  try {
    if (sequence_) session_->remove(*sequence_);
  } catch (const DeviceFailure&) {
    // A GPU that failed has been reported by whoever used it.
  }
}

std::unique_ptr<Conversation> ModelConversation::fork() const {
  std::unique_ptr<ModelConversation> other(new ModelConversation(*this));
  other->sequence_.reset();
  if (!sequence_ || held_.empty()) return other;
  other->held_.reserve(static_cast<std::size_t>(room_));
  other->sequence_ = session_->fork(*sequence_, room_);
  return other;
}

void ModelConversation::forget() {
  if (sequence_) session_->remove(*sequence_);
  sequence_.reset();
  held_.clear();
  rest_.clear();
}

std::vector<int32_t> ModelConversation::ids() const {
  std::vector<int32_t> ids = held_;
  ids.insert(ids.end(), rest_.begin(), rest_.end());
  return ids;
}

void ModelConversation::save_state(const std::filesystem::path& path, const std::string& note) const {
  require(sequence_ && !held_.empty(),
          "nothing is in memory that could be saved; let an answer be made first");
  session_->save_state(*sequence_, path, {.ids = ids(), .held = held_tokens(), .note = note});
}

// Beside what is held, which is given back when the new state is whole.
std::string ModelConversation::load_state(const std::filesystem::path& path) {
  const int64_t tokens = read_state_info(path).tokens;
  require(tokens <= parts_.model.context, "{} holds {} tokens, the model's context is {}", path.string(),
          tokens, parts_.model.context);
  for (const int64_t spare : {std::max(tokens, kLeastSpareTokens), int64_t{0}}) {
    const int64_t room = std::min(tokens + spare, parts_.model.context);
    const SequenceId loaded = session_->add(room);
    try {
      StateContents contents = session_->load_state(loaded, path);
      contents.ids.reserve(static_cast<std::size_t>(room));
      std::vector<int32_t> rest(contents.ids.begin() + contents.held, contents.ids.end());
      contents.ids.resize(static_cast<std::size_t>(contents.held));
      forget();
      sequence_ = loaded;
      room_ = contents.max_tokens;
      held_ = std::move(contents.ids);
      rest_ = std::move(rest);
      return std::move(contents.note);
    } catch (const OutOfMemory&) {
      session_->remove(loaded);
      if (spare == 0) throw;
    } catch (...) {
      session_->remove(loaded);
      throw;
    }
  }
  return {};  // not reached: the second room returns or throws
}

// How the sequence becomes `ids`, where it then needs room for `tokens` in all.
FollowUp ModelConversation::follow_up(std::span<const int32_t> ids, int64_t tokens) const {
  const int64_t more = std::ssize(ids) - held_tokens();
  const bool follows = sequence_ && !held_.empty() && more > 0 && tokens <= room_ &&
                       std::equal(held_.begin(), held_.end(), ids.begin());
  return follows ? choose_follow_up(parts_.model, attention_, held_tokens(), more) : FollowUp::anew;
}

// What comes behind the tokens that are new. Where there is no memory for a layer's past, steps read them.
ModelConversation::Next ModelConversation::take_in(FollowUp how, std::span<const int32_t> ids,
                                                   const Draw& draw) {
  try {
    if (how == FollowUp::append) return read_rest(ids, draw);
  } catch (const OutOfMemory&) {
  }
  return step_on(ids, draw);
}

// The sequence reads what it lacks of `ids`.
ModelConversation::Next ModelConversation::read_rest(std::span<const int32_t> ids, const Draw& draw) {
  std::vector<int32_t> held;
  held.reserve(static_cast<std::size_t>(room_));  // no later token asks for memory
  held.assign(ids.begin(), ids.end());
  const std::span<const int32_t> rest = ids.subspan(held_.size());
  Next next;
  if (draw.keeps_logits) {
    next.logits = session_->prefill(*sequence_, rest, draw.progress);
    held_ = std::move(held);
    next.id = draw.sampler.pick(next.logits);
  } else {
    next.id = session_->prefill_sampled(*sequence_, rest, draw.sampler, draw.progress);
    held_ = std::move(held);
  }
  return next;
}

// The sequence takes the token.
ModelConversation::Next ModelConversation::decode(int32_t id, const Draw& draw) {
  const SequenceToken token{.sequence = *sequence_, .token = id};
  Sampler* const sampler = &draw.sampler;
  Next next;
  if (draw.keeps_logits) {
    next.logits = session_->decode(0, {&token, 1});
    held_.push_back(id);
    next.id = draw.sampler.pick(next.logits);
  } else {
    next.id = session_->decode_sampled(0, {&token, 1}, {&sampler, 1})[0];
    held_.push_back(id);
  }
  return next;
}

ModelConversation::Next ModelConversation::step_on(std::span<const int32_t> ids, const Draw& draw) {
  const int64_t before = held_tokens(), more = std::ssize(ids) - before;
  while (held_tokens() + 1 < std::ssize(ids)) {
    const SequenceToken token{.sequence = *sequence_, .token = ids[held_.size()]};
    (void)session_->decode_greedy(0, {&token, 1});
    held_.push_back(token.token);
    if (draw.progress) draw.progress(static_cast<double>(held_tokens() - before) / static_cast<double>(more));
  }
  return decode(ids.back(), draw);
}

// Into a new sequence, with room for turns to come where there is memory for it.
ModelConversation::Next ModelConversation::read(std::span<const int32_t> ids, int64_t tokens,
                                                const Draw& draw) {
  const int64_t spare = goes_on_ ? std::max(tokens, kLeastSpareTokens) : 0;
  for (const int64_t room : {std::min(tokens + spare, parts_.model.context), tokens}) {
    forget();
    sequence_ = session_->add(room);
    room_ = room;
    try {
      return read_rest(ids, draw);
    } catch (const OutOfMemory&) {
      if (room == tokens) throw;
    }
  }
  return {};  // not reached: the second room returns or throws
}

GenerateResult ModelConversation::answer(const GenerateRequest& request, const TokenCallback& on_token) {
  require(request.max_new_tokens >= 1, "max-new-tokens = {} is out of range; it must be at least 1",
          request.max_new_tokens);
  check_sampling(request.sampling, {.vocab = parts_.model.vocab_size,
                                    .max_new_tokens = request.max_new_tokens,
                                    .has_tokenizer = parts_.tokenizer != nullptr,
                                    .ignore_eos = request.ignore_eos});
  const std::vector<int32_t> ids = parts_.prompt_ids(request);
  Sampler sampler = parts_.engine.make_sampler(request.sampling, ids, request.ignore_eos);
  GenerateResult result;
  result.prompt_tokens = std::ssize(ids);
  const int64_t wanted = std::min(request.max_new_tokens, parts_.model.context - result.prompt_tokens);
  GrowingAnswer answer(AnswerText(parts_.tokenizer,
                                  answer_ends(request.sampling, parts_.model.eos_tokens, request.ignore_eos)),
                       wanted, result);
  const SessionStatistics before = session_->statistics(0);

  rest_.clear();
  const Draw draw{
      .sampler = sampler, .keeps_logits = request.keep_logits, .progress = request.prefill_progress};
  const Clock::time_point start = Clock::now();
  const FollowUp how = follow_up(ids, result.prompt_tokens + wanted);
  if (how != FollowUp::anew) result.held_tokens = held_tokens();
  Next next =
      how == FollowUp::anew ? read(ids, result.prompt_tokens + wanted, draw) : take_in(how, ids, draw);
  result.ttft_s = seconds_since(start);
  const Clock::time_point first = Clock::now();
  const Observing observing(*session_, request.observer);
  while (true) {
    result.logits.insert(result.logits.end(), next.logits.begin(), next.logits.end());
    if (!answer.add(next.id, sampler, on_token)) break;
    next = decode(next.id, draw);
  }
  rest_.assign(1, next.id);
  result.decode_s = seconds_since(first);
  result.statistics = session_->statistics(0).since(before);
  return result;
}

}  // namespace shadowkv
