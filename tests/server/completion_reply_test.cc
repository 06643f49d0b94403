#include "server/completion_reply.h"

#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>

#include "server/fake_engine.h"

namespace shadowkv::testing {
namespace {

using Json = nlohmann::json;

// An answer of one token after another, each asked for by itself, and as likely as the others where that is
// said.
class FakeStream final : public Stream {
 public:
  FakeStream(std::vector<int32_t> ids, bool& is_cancelled, std::optional<float> logprob = {})
      : ids_(std::move(ids)), is_cancelled_(is_cancelled), logprob_(logprob) {}
  void fail_at(std::size_t token) { fails_at_ = token; }

  std::optional<TokenEvent> next() override { return try_next(); }
  std::optional<TokenEvent> try_next() override {
    const bool is_pause = !std::exchange(is_paused_, !is_paused_);
    if (at_ == ids_.size() || is_pause) return std::nullopt;
    if (at_ == fails_at_) throw DeviceFailure("the device is gone");
    const int32_t id = ids_[at_++];
    TokenEvent event{.id = id, .text = FakeEngine().detokenize({&id, 1}, true)};
    if (logprob_) event.logprobs.push_back({.id = id, .logprob = *logprob_});
    return event;
  }
  void cancel() noexcept override { is_cancelled_ = true; }
  [[nodiscard]] RequestReport report() const override {
    return {.ended = at_ == ids_.size(),
            .finish = FinishReason::stop,
            .prompt_tokens = 5,
            .new_tokens = static_cast<int64_t>(at_)};
  }

 private:
  std::vector<int32_t> ids_;
  bool& is_cancelled_;
  std::optional<float> logprob_;
  std::optional<std::size_t> fails_at_;
  std::size_t at_ = 0;
  bool is_paused_ = false;
};

struct Answered {
  std::vector<Json> events;  // or the one body
  bool is_cancelled = false;
};

Answered answer(CompletionRequest request, std::string_view text) {
  const FakeEngine engine;
  Answered answered;
  std::vector<std::unique_ptr<Stream>> streams;
  streams.push_back(std::make_unique<FakeStream>(engine.tokenize(text), answered.is_cancelled));
  request.is_chat = true;
  CompletionReply reply({.id = "x", .model = "m", .headers = {}, .engine = &engine}, request,
                        std::move(streams), {});
  std::string all;
  for (bool ended = false; !ended;) {
    HttpReply::Part part = reply.next();
    all += part.text;
    ended = part.ended;
  }
  for (std::size_t at = 0, end = 0; request.stream && (end = all.find("\n\n", at)) != std::string::npos;
       at = end + 2) {
    const std::string event = all.substr(at + 6, end - at - 6);
    if (event != "[DONE]") answered.events.push_back(Json::parse(event));
  }
  if (!request.stream) answered.events.push_back(Json::parse(all));
  return answered;
}

// The message that a client puts together.
Json message_of(const std::vector<Json>& events) {
  Json message = {{"content", nullptr}, {"tool_calls", Json::array()}};
  for (const Json& event : events) {
    const Json& choice = event.at("choices")[0];
    const Json& delta = choice.at("delta");
    if (delta.contains("content") && delta["content"].is_string())
      message["content"] =
          message["content"].is_null()
              ? delta["content"]
              : Json(message["content"].get<std::string>() + delta["content"].get<std::string>());
    for (const Json& piece : delta.value("tool_calls", Json::array())) {
      Json& calls = message["tool_calls"];
      const auto index = piece.at("index").get<std::size_t>();
      if (index == calls.size()) {
        EXPECT_EQ(piece.at("type"), "function");
        EXPECT_FALSE(piece.at("id").get<std::string>().empty());
        calls.push_back({{"name", piece["function"]["name"]}, {"arguments", ""}});
      }
      calls.at(index)["arguments"] =
          calls[index]["arguments"].get<std::string>() + piece["function"]["arguments"].get<std::string>();
    }
    message["finish"] = choice.at("finish_reason");
  }
  return message;
}

CompletionRequest with_tools(ToolFormat format, bool stream) {
  CompletionRequest request;
  request.stream = stream;
  request.tools = ToolParsing{.format = format, .names = {"f"}, .by_pieces = stream};
  request.open_token = FakeEngine::kHidden;
  return request;
}

constexpr const char* kTwo =
    R"(So: [TOOL_CALLS] [{"name": "f", "arguments": {"z": 1, "a": 2}}, {"name": "g", "arguments": {}}])";

TEST(Replies, HoldTheCallsOfAWholeAnswer) {
  const Json choice = answer(with_tools(ToolFormat::mistral, false), kTwo).events.at(0)["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["content"], "So:");
  const Json& calls = choice["message"]["tool_calls"];
  ASSERT_EQ(calls.size(), 2);
  EXPECT_EQ(calls[0]["function"]["name"], "f");
  EXPECT_EQ(calls[0]["function"]["arguments"], R"({"z": 1, "a": 2})");
  EXPECT_EQ(calls[0]["type"], "function");
  EXPECT_EQ(calls[0]["id"].get<std::string>().size(), 9) << "what Mistral's templates take";
  EXPECT_NE(calls[0]["id"], calls[1]["id"]);
}

TEST(Replies, StreamTheSameCalls) {
  const Answered streamed = answer(with_tools(ToolFormat::mistral, true), kTwo);
  EXPECT_GT(streamed.events.size(), 20) << "arguments come as they are written";
  EXPECT_EQ(streamed.events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(
      message_of(streamed.events).dump(),
      R"({"content":"So:","finish":"tool_calls","tool_calls":[{"arguments":"{\"z\": 1, \"a\": 2}","name":"f"},)"
      R"({"arguments":"{}","name":"g"}]})");
}

TEST(Replies, GiveBackWhatIsNoCallAsText) {
  const std::string text = R"(<tool_call>{"name": 5}</tool_call> )";
  for (const bool stream : {false, true}) {
    const Answered answered = answer(with_tools(ToolFormat::hermes, stream), text);
    const Json message = stream ? message_of(answered.events) : answered.events[0]["choices"][0]["message"];
    EXPECT_EQ(message["content"], text);
    EXPECT_EQ((stream ? message["finish"] : answered.events[0]["choices"][0]["finish_reason"]), "stop");
  }
}

TEST(Replies, EndBehindTheOnlyCallThatMayBe) {
  for (const bool stream : {false, true}) {
    CompletionRequest request = with_tools(ToolFormat::mistral, stream);
    request.tools->most = 1;
    const Answered answered = answer(request, kTwo);
    EXPECT_TRUE(answered.is_cancelled);
    const Json last = answered.events.back()["choices"][0];
    EXPECT_EQ(last["finish_reason"], "tool_calls");
    EXPECT_EQ((stream ? message_of(answered.events)["tool_calls"] : last["message"]["tool_calls"]).size(), 1);
  }
}

TEST(Replies, AreTextAloneWithoutTools) {
  CompletionRequest request;
  EXPECT_EQ(answer(request, "<tool_call>").events[0]["choices"][0]["message"]["content"], "<tool_call>");
  EXPECT_FALSE(answer(request, "x").events[0]["choices"][0]["message"].contains("tool_calls"));
}

// Answers to two prompts, of which some are shown.
Json best_of(int64_t choices, bool show_logprobs) {
  const FakeEngine engine;
  bool is_cancelled = false;
  std::vector<std::unique_ptr<Stream>> streams;
  const auto add = [&](std::string_view text, float logprob) {
    streams.push_back(std::make_unique<FakeStream>(engine.tokenize(text), is_cancelled, logprob));
  };
  add("short", -0.5f), add("a long one", -0.25f), add("equal", -0.25f);
  add("x", -3.0f), add("yy", -2.0f), add("zzz", -1.0f);
  CompletionRequest request;
  request.choices = choices;
  request.best_of = 3;
  request.show_logprobs = show_logprobs;
  request.echoes = {"<", ">"};
  CompletionReply reply({.id = "x", .model = "m", .headers = {}, .engine = &engine}, request,
                        std::move(streams), {});
  HttpReply::Part part;
  while (!part.ended) part = reply.next();
  return Json::parse(part.text);
}

std::vector<std::string> texts_of(const Json& body) {
  std::vector<std::string> texts;
  for (const Json& choice : body.at("choices")) {
    EXPECT_EQ(choice.at("index"), texts.size());
    texts.push_back(choice.at("text"));
  }
  return texts;
}

TEST(Replies, ShowTheLikeliestOfEachPromptsAnswersByToken) {
  using Texts = std::vector<std::string>;
  EXPECT_EQ(texts_of(best_of(1, false)), (Texts{"<a long one", ">zzz"})) << "the sum would favour short ones";
  EXPECT_EQ(texts_of(best_of(2, false)), (Texts{"<a long one", "<equal", ">zzz", ">yy"}));
  EXPECT_EQ(texts_of(best_of(3, false)), (Texts{"<short", "<a long one", "<equal", ">x", ">yy", ">zzz"}))
      << "nothing is chosen: as they came";
}

TEST(Replies, ShowLogProbabilitiesOnlyWhereTheyWereAskedFor) {
  const Json hidden = best_of(1, false).at("choices");
  for (const Json& choice : hidden) EXPECT_TRUE(choice.at("logprobs").is_null());
  const Json shown = best_of(1, true).at("choices");
  EXPECT_EQ(shown[0]["logprobs"]["token_logprobs"], Json(std::vector<float>(10, -0.25f)));
}

TEST(Replies, CountTheTokensOfAnswersThatAreNotShown) {
  const Json usage = best_of(1, false).at("usage");
  EXPECT_EQ(usage["completion_tokens"], 5 + 10 + 5 + 1 + 2 + 3);
  EXPECT_EQ(usage["prompt_tokens"], 10) << "each prompt was read once";
}

using Ends = std::array<int64_t, kRequestEnds>;  // stop, length, abort, error

// How a reply's two answers, of 2 and of 4 tokens, are counted: the reply is asked for a number of parts, and
// then its client leaves. The longer one may fail at a token.
Ends ends_of(int parts, std::optional<std::size_t> fails_at = {}) {
  const FakeEngine engine;
  bool is_cancelled = false;
  RequestCounter counter;
  {
    std::vector<std::unique_ptr<Stream>> streams;
    streams.push_back(std::make_unique<FakeStream>(engine.tokenize("ab"), is_cancelled));
    auto longer = std::make_unique<FakeStream>(engine.tokenize("abcd"), is_cancelled);
    if (fails_at) longer->fail_at(*fails_at);
    streams.push_back(std::move(longer));
    CompletionRequest request;
    request.choices = request.best_of = 2;
    CompletionReply reply({.id = "x", .model = "m", .headers = {}, .engine = &engine, .counter = &counter},
                          request, std::move(streams), {});
    for (bool ended = false; parts > 0 && !ended; --parts) ended = reply.next().ended;
  }
  return counter.counts().ended;
}

TEST(Replies, CountEachAnswerOnceAsItEnded) {
  EXPECT_EQ(ends_of(100), (Ends{2, 0, 0, 0}));
  EXPECT_EQ(ends_of(0), (Ends{0, 0, 2, 0})) << "its client did not wait";
  EXPECT_EQ(ends_of(100, 0), (Ends{0, 0, 0, 2})) << "the other one goes with it";
  EXPECT_EQ(ends_of(100, 3), (Ends{1, 0, 0, 1})) << "the other one had ended";
}

// Events of a streamed answer whose tokens have no text.
std::size_t events_without_text(const FakeEngine& engine) {
  bool is_cancelled = false;
  std::vector<std::unique_ptr<Stream>> streams;
  streams.push_back(std::make_unique<FakeStream>(std::vector<int32_t>(3, FakeEngine::kHidden), is_cancelled));
  CompletionRequest request;
  request.stream = true;
  CompletionReply reply({.id = "x", .model = "m", .headers = {}, .engine = &engine}, request,
                        std::move(streams), {});
  std::size_t events = 0;
  for (bool ended = false; !ended;) {
    const HttpReply::Part part = reply.next();
    for (std::size_t at = 0; (at = part.text.find("data: {", at)) != std::string::npos; ++at) ++events;
    ended = part.ended;
  }
  return events;
}

TEST(Replies, TellOfEachTokenWhereNoTextWouldAsThereIsNoTokenizer) {
  EXPECT_EQ(events_without_text(FakeEngine(true)), 1) << "its end";
  EXPECT_GE(events_without_text(FakeEngine(false)), 3);
}

TEST(Replies, CountAnAnswerBeforeItsEndIsHandedOn) {
  const FakeEngine engine;
  bool is_cancelled = false;
  RequestCounter counter;
  std::vector<std::unique_ptr<Stream>> streams;
  streams.push_back(std::make_unique<FakeStream>(engine.tokenize("ab"), is_cancelled));
  CompletionReply reply({.id = "x", .model = "m", .headers = {}, .engine = &engine, .counter = &counter}, {},
                        std::move(streams), {});
  while (!reply.next().ended) EXPECT_EQ(counter.counts().ended, Ends{});
  EXPECT_EQ(counter.counts().ended, (Ends{1, 0, 0, 0})) << "who has the answer finds it counted";
}

}  // namespace
}  // namespace shadowkv::testing
