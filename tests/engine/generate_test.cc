// Generation through the public header.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "engine/engines.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

class Generate : public ::testing::Test {
 protected:
  static GenerateRequest request(int64_t prompt, int64_t tokens, const AttentionConfig& attention) {
    GenerateRequest request;
    request.prompt_ids = random_ids(prompt);
    request.attention = attention;
    request.max_new_tokens = tokens;
    request.ignore_eos = true;
    return request;
  }
  void expect_refused(const GenerateRequest& request, const std::string& part) {
    try {
      (void)engine_->generate(request, {});
      ADD_FAILURE() << "taken; expected \"" << part << "\"";
    } catch (const InvalidInput& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  }

  std::unique_ptr<Engine> engine_ = small_engine();
};

TEST_F(Generate, EqualsASessionByHand) {
  for (const AttentionConfig& attention : {full_attention(), small_shadow()}) {
    GenerateRequest asked = request(150, 12, attention);
    asked.keep_logits = true;
    const GenerateResult result = engine_->generate(asked, {});
    const auto session = engine_->open({&attention, 1});
    const SequenceId id = session->add(162);
    std::vector<float> logits = session->prefill(id, asked.prompt_ids);
    ASSERT_EQ(result.ids.size(), 12u);
    ASSERT_EQ(result.logits.size(), 12u * 288u);
    for (std::size_t i = 0; i < result.ids.size(); ++i) {
      ASSERT_EQ(row_of(result.logits, i, 288), logits) << "token " << i;
      ASSERT_EQ(result.ids[i], best_of(logits));
      const SequenceToken next{id, result.ids[i]};
      logits = session->decode(0, {&next, 1});
    }
    EXPECT_EQ(result.finish, FinishReason::length);
    EXPECT_EQ(result.prompt_tokens, 150);
    EXPECT_EQ(result.statistics.decode_steps, 11);
  }
}

TEST_F(Generate, TheSameSeedGivesTheSameTokens) {
  GenerateRequest asked = request(60, 40, small_shadow());
  asked.sampling = {.temperature = 1.5, .top_k = 50, .top_p = 0.95, .seed = 11};
  const std::vector<int32_t> first = engine_->generate(asked, {}).ids;
  EXPECT_EQ(engine_->generate(asked, {}).ids, first);
  EXPECT_EQ(small_engine()->generate(asked, {}).ids, first);
  asked.sampling.seed = 12;
  EXPECT_NE(engine_->generate(asked, {}).ids, first);
}

TEST_F(Generate, StreamedTextIsTheTextOfTheResult) {
  for (int64_t tokens = 1; tokens <= 30; ++tokens) {  // some of these answers end within a character
    GenerateRequest asked = request(30, tokens, full_attention());
    asked.sampling = {.temperature = 2.0, .seed = 3};
    std::string streamed;
    std::vector<int32_t> ids;
    const GenerateResult result = engine_->generate(asked, [&](const TokenEvent& event) {
      streamed += event.text;
      ids.push_back(event.id);
      return true;
    });
    EXPECT_EQ(streamed, result.text);
    EXPECT_EQ(result.text, engine_->detokenize(result.ids));
    EXPECT_EQ(ids, result.ids) << "one event a token";
  }
}

TEST_F(Generate, TextAndItsIdsAreOnePrompt) {
  GenerateRequest by_text = request(0, 5, full_attention());
  by_text.prompt = "the quick brown fox";
  GenerateRequest by_ids = by_text;
  by_ids.prompt_ids = engine_->tokenize(by_text.prompt);
  by_ids.prompt.clear();
  EXPECT_EQ(engine_->generate(by_text, {}).ids, engine_->generate(by_ids, {}).ids);
}

TEST_F(Generate, AFalseFromTheCallbackEndsTheAnswer) {
  int seen = 0;
  const GenerateResult result =
      engine_->generate(request(20, 50, full_attention()), [&](const TokenEvent&) { return ++seen < 7; });
  EXPECT_EQ(result.finish, FinishReason::cancelled);
  EXPECT_EQ(result.ids.size(), 7u);
  EXPECT_EQ(seen, 7);
}

TEST_F(Generate, TheEndOfAnswerTokenStopsUnlessIgnored) {
  ASSERT_TRUE(engine_->is_eos(2));
  ASSERT_FALSE(engine_->is_eos(3));
  GenerateRequest asked = request(20, 1500, full_attention());
  asked.sampling = {.temperature = 1000.0, .seed = 6};  // nearly uniform: one token in 288 ends
  const GenerateResult going_on = engine_->generate(asked, {});
  const auto end = std::find(going_on.ids.begin(), going_on.ids.end(), 2);
  ASSERT_NE(end, going_on.ids.end()) << "this seed never draws the token; choose another";
  EXPECT_EQ(going_on.finish, FinishReason::length);
  asked.ignore_eos = false;
  const GenerateResult stopped = engine_->generate(asked, {});
  EXPECT_EQ(stopped.finish, FinishReason::stop);
  EXPECT_EQ(stopped.ids, std::vector<int32_t>(going_on.ids.begin(), end + 1));
  EXPECT_EQ(name_of(stopped.finish), "stop");
}

// Every stop text that the answer holds, and each with what lies behind it: shown is what lies before it.
TEST_F(Generate, AStopTextEndsTheAnswerAndIsNeverShownInPart) {
  GenerateRequest asked = request(40, 60, full_attention());
  asked.sampling = {.temperature = 2.0, .seed = 3};
  const std::string whole = engine_->generate(asked, {}).text;
  int64_t cases = 0;
  for (std::size_t first = 0; first + 12 < whole.size(); ++first) {
    for (const std::size_t length : {1u, 4u, 9u}) {
      const std::string stop = whole.substr(first, length);
      const bool is_character = (stop[0] & 0xC0) != 0x80 && (whole[first + length] & 0xC0) != 0x80;
      if (!is_character) continue;
      asked.sampling.stop = {stop + "\x7f", stop};
      std::string shown;
      const GenerateResult result = engine_->generate(asked, [&](const TokenEvent& event) {
        shown += event.text;
        return true;
      });
      EXPECT_EQ(result.text, whole.substr(0, whole.find(stop)));
      EXPECT_EQ(shown, result.text);
      EXPECT_EQ(result.finish, FinishReason::stop);
      EXPECT_LT(result.ids.size(), 60u);
      ++cases;
    }
    if (cases > 40) break;
  }
  EXPECT_GT(cases, 20);
}

TEST_F(Generate, NothingEndsAnAnswerBeforeItsLeastTokens) {
  GenerateRequest asked = request(20, 40, full_attention());
  asked.sampling = {.temperature = 1.0, .seed = 6};
  const GenerateResult whole = engine_->generate(asked, {});
  asked.sampling.stop_ids = {whole.ids[5]};
  EXPECT_EQ(engine_->generate(asked, {}).finish, FinishReason::stop);
  EXPECT_LE(engine_->generate(asked, {}).ids.size(), 6u);
  asked.sampling.min_tokens = 30;
  const GenerateResult late = engine_->generate(asked, {});
  EXPECT_GE(late.ids.size(), 31u) << "the first that may end it is the one after";
  EXPECT_EQ(std::count(late.ids.begin(), late.ids.begin() + 30, whole.ids[5]), 0);
  asked.sampling.stop_ids = {};
  asked.sampling.stop = {"Q", "/", "a", "1"};
  EXPECT_GE(engine_->generate(asked, {}).ids.size(), 30u);
}

constexpr std::string_view kPerson = R"({"type": "object", "properties": {
  "name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
  "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3}},
  "required": ["name", "age", "tags"], "additionalProperties": false})";

bool is_person(const nlohmann::json& value) {
  const int64_t age = value.at("age");
  return value.size() == 3 && value.at("name").is_string() && age >= 0 && age <= 130 &&
         value.at("tags").size() <= 3;
}

// A model that says anything, under a constraint: what it says is whole unless it was cut.
TEST_F(Generate, ConstrainedAnswersAreWhatTheConstraintSays) {
  int whole = 0, cut = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    GenerateRequest asked = request(10, seed % 6 == 0 ? 12 : 120, full_attention());
    asked.ignore_eos = false;
    asked.sampling = {.temperature = 0.5 + 0.5 * static_cast<double>(seed % 5), .seed = seed};
    const bool is_object = seed % 2 == 0;
    asked.sampling.json_object = is_object;
    if (!is_object) asked.sampling.json_schema = kPerson;
    const GenerateResult result = engine_->generate(asked, {});
    if (result.finish == FinishReason::length) {
      ++cut;
      EXPECT_EQ(std::ssize(result.ids), asked.max_new_tokens);
      continue;
    }
    ++whole;
    const auto value = nlohmann::json::parse(result.text, nullptr, false);
    EXPECT_TRUE(is_object ? value.is_object() : !value.is_discarded() && is_person(value)) << result.text;
  }
  EXPECT_GT(whole, 20);
  EXPECT_GT(cut, 3);
}

TEST_F(Generate, APatternIsMatchedByTheWholeAnswer) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    GenerateRequest asked = request(10, 50, small_shadow());
    asked.ignore_eos = false;
    asked.sampling = {.temperature = 1.0, .seed = seed, .regex = "(yes|no|[0-9]{3,5}|é+)"};
    asked.sampling.logprobs = 0;
    const std::string text = engine_->generate(asked, {}).text;
    const bool is_number =
        text.size() >= 3 && text.size() <= 5 && text.find_first_not_of("0123456789") == std::string::npos;
    const bool is_e = text.size() % 2 == 0 && text.starts_with("é");
    EXPECT_TRUE(text == "yes" || text == "no" || is_number || is_e) << text;
  }
}

TEST_F(Generate, ConstraintsAtOddsAreRefusedWithBoth) {
  GenerateRequest bad = request(5, 5, full_attention());
  bad.ignore_eos = false;
  bad.sampling.regex = "a+";
  bad.sampling.json_object = true;
  expect_refused(bad, "regex = \"a+\" and json-object are both given");
  bad.sampling.json_object = false;
  bad.sampling.json_schema = "{}";
  expect_refused(bad, "regex = \"a+\" and json-schema = \"{}\" are both given");
  bad.sampling.json_schema.clear();
  bad.sampling.min_tokens = 2;
  expect_refused(bad, "min-tokens = 2 and regex = \"a+\"");
  bad.sampling.min_tokens = 0;
  bad.ignore_eos = true;
  expect_refused(bad, "ignore-eos is given with a constraint");
  bad.ignore_eos = false;
  bad.sampling.regex = "a(?=b)";
  expect_refused(bad, "at byte 3");
}

TEST_F(Generate, AnAnswerEndsAtTheContext) {
  const GenerateResult result = engine_->generate(request(4090, 50, small_shadow()), {});
  EXPECT_EQ(result.ids.size(), 6u);
  EXPECT_EQ(result.finish, FinishReason::length);
}

TEST_F(Generate, BadRequestsAreRefusedWithASentence) {
  expect_refused(request(0, 5, full_attention()), "prompt is empty");
  expect_refused(request(4096, 5, full_attention()), "4096 tokens");
  expect_refused(request(5, 0, full_attention()), "max-new-tokens = 0");
  GenerateRequest outside = request(5, 5, full_attention());
  outside.prompt_ids[2] = 288;
  expect_refused(outside, "token id 288");
  outside.prompt_ids[2] = -1;
  expect_refused(outside, "token id -1");
  GenerateRequest bad = request(5, 5, small_shadow());
  bad.attention.chunk_size = 17;
  expect_refused(bad, "chunk-size = 17");
  bad = request(5, 5, full_attention());
  bad.sampling.top_p = 2;
  expect_refused(bad, "top-p = 2");
  bad = request(0, 5, full_attention());
  bad.prompt = "half a character: \xe2\x82";
  expect_refused(bad, "UTF-8");
}

TEST_F(Generate, StoppingThePrefillGivesEverythingBack) {
  for (const AttentionConfig& attention : {full_attention(), small_shadow()}) {
    (void)engine_->generate(request(900, 3, attention), {});  // scratch at its size
    const EngineMemory before = engine_->memory();
    GenerateRequest asked = request(900, 3, attention);
    for (const double stop_at : {0.0, 0.6}) {
      asked.prefill_progress = [stop_at](double share) {
        if (share >= stop_at) throw Interrupted("stopped by the test");
      };
      EXPECT_THROW((void)engine_->generate(asked, {}), Interrupted);
      EXPECT_EQ(engine_->memory().held, before.held);
    }
    asked.prefill_progress = {};
    const auto stop = [](const TokenEvent&) -> bool { throw Interrupted("stopped by the test"); };
    EXPECT_THROW((void)engine_->generate(asked, stop), Interrupted);
    EXPECT_EQ(engine_->memory().held, before.held);
  }
}

TEST_F(Generate, WithoutMemoryItIsRefusedAndTheEngineGoesOn) {
  EngineOptions options = small_engine_options();
  options.device_bytes = 1'500'000;
  options.host_bytes = 50'000;
  const auto small = Engine::load(options);
  const auto held = small->memory().held;
  EXPECT_THROW((void)small->generate(request(4000, 20, full_attention()), {}), OutOfMemory);
  EXPECT_EQ(small->memory().held, held);
  EXPECT_EQ(small->generate(request(50, 4, full_attention()), {}).ids,
            engine_->generate(request(50, 4, full_attention()), {}).ids);
  options.device_bytes = 1000;
  EXPECT_THROW((void)Engine::load(options), OutOfMemory);
}

// Room for the sequence at its largest, when it turns sparse, is asked for before the prefill.
TEST_F(Generate, ARequestThatIsTakenHasTheMemoryToTurnSparse) {
  AttentionConfig attention = small_shadow();
  attention.exact_below = 2000;
  EngineOptions options = small_engine_options();
  const auto attempt = [&](int64_t device_bytes) {
    options.device_bytes = device_bytes;
    bool began = false;
    GenerateRequest asked = request(1990, 30, attention);
    asked.prefill_progress = [&](double) { began = true; };
    const auto small = Engine::load(options);
    try {
      return static_cast<int64_t>(small->generate(asked, {}).ids.size());
    } catch (const OutOfMemory&) {
      return began ? int64_t{-1} : int64_t{0};
    }
  };
  int64_t least = 1'000'000;
  while (attempt(least) == 0) least += 20'000;
  constexpr int64_t kScratch = 300'000;  // of prefill slices and decode steps, which is not asked for
  EXPECT_EQ(attempt(least + kScratch), 30);
}

TEST_F(Generate, TheFootprintOfARequestIsWhatItHolds) {
  for (const AttentionConfig& attention : {full_attention(), small_shadow()}) {
    const GenerateResult result = engine_->generate(request(600, 30, attention), {});
    const SequenceFootprint promised = engine_->footprint(attention, 630);
    const auto [device, host] = result.statistics.held_bytes;
    EXPECT_LE(device, promised.device + promised.either);
    EXPECT_LE(host, promised.host + promised.either);
    EXPECT_LE(device + host, promised.device + promised.host + promised.either);
    EXPECT_EQ(footprint(small_engine_options(), attention, 630).device, promised.device);
  }
}

TEST_F(Generate, ResolvingSaysWhatWasTakenAsSomethingElse) {
  AttentionConfig config = small_shadow();
  config.rank = 1000;
  config.sparse_budget = 100'000;
  const ResolvedAttention resolved = engine_->resolve(config);
  EXPECT_EQ(resolved.config.rank, 32);
  EXPECT_EQ(resolved.config.sparse_budget, 4096);
  ASSERT_EQ(resolved.notes.size(), 2u);
  EXPECT_THAT(resolved.notes[0], HasSubstr("rank 1000"));
  EXPECT_THAT(resolved.notes[1], HasSubstr("sparse-budget 100000"));
}

// Engines share nothing that changes; the thread sanitizer watches this one.
TEST(Engines, TwoInTwoThreadsDoNotDisturbEachOther) {
  const auto ask = [](const AttentionConfig& attention) {
    GenerateRequest asked;
    asked.prompt_ids = random_ids(300);
    asked.attention = attention;
    asked.sampling = {.temperature = 1.0, .seed = 4};
    asked.max_new_tokens = 20;
    asked.ignore_eos = true;
    return small_engine()->generate(asked, {}).ids;
  };
  const std::vector<AttentionConfig> methods = {full_attention(), small_shadow(), preset("paper")};
  std::vector<std::vector<int32_t>> expected, found(methods.size());
  for (const AttentionConfig& method : methods) expected.push_back(ask(method));
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < methods.size(); ++i) {
      threads.emplace_back([&, i] { found[i] = ask(methods[i]); });
    }
  }
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace shadowkv::testing
