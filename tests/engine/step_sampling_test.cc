// Steps that change logits, draw and rank where the logits lie, against samplers that are handed the logits.
#include <gtest/gtest.h>

#include <random>

#include "base/device.h"
#include "engine/engines.h"
#include "engine/sampler.h"
#include "kernels/logit_rows.h"
#include "support/devices.h"
#include "support/sanitizer.h"

namespace shadowkv::testing {
namespace {

constexpr int32_t kVocab = 288;

class SampledSteps : public ::testing::TestWithParam<std::string> {
 protected:
  static std::unique_ptr<Engine> engine_on(const std::string& device) {
    EngineOptions options = small_engine_options();
    options.device = device;
    if (device != "cpu") options.dtype = "bfloat16";
    return Engine::load(options);
  }
  // Bytes of what samplers keep, on both tiers.
  [[nodiscard]] int64_t kept() const {
    for (const auto& [purpose, bytes] : engine_->memory().by_purpose) {
      if (purpose == "sampling") return bytes[0] + bytes[1];
    }
    ADD_FAILURE() << "no bytes are counted for sampling";
    return -1;
  }

  std::unique_ptr<Engine> engine_ = engine_on(GetParam());
  std::unique_ptr<Session> session_ = engine_->open(std::vector<AttentionConfig>{small_shadow()});
};
INSTANTIATE_TEST_SUITE_P(Devices, SampledSteps, ::testing::ValuesIn(devices()),
                         [](const auto& one) { return one.param; });

// Every parameter in every mixture, by seed.
SamplingParams random_params(std::mt19937& random) {
  const auto one_of = [&](std::initializer_list<double> values) {
    return values.begin()[random() % values.size()];
  };
  const auto token = [&] { return static_cast<int32_t>(random() % kVocab); };
  SamplingParams params{.temperature = one_of({0, 0.7, 1.5}),
                        .top_k = static_cast<int64_t>(one_of({0, 0, 5, 40})),
                        .top_p = one_of({1, 1, 0.9}),
                        .min_p = one_of({0, 0, 0.05}),
                        .seed = random(),
                        .repetition_penalty = one_of({1, 1, 1.3, 0.8}),
                        .presence_penalty = one_of({0, 0, 0.5, -1}),
                        .frequency_penalty = one_of({0, 0, 0.25, -0.5})};
  if (random() % 3 == 0) {
    for (auto count = random() % 30; count > 0; --count)
      params.logit_bias[token()] = one_of({-100, -2, 0.5, 8});
  }
  for (auto count = random() % 3; count > 0; --count) params.stop_ids.push_back(token());
  if (random() % 4 == 0) {
    params.json_object = true;
  } else {
    params.min_tokens = static_cast<int64_t>(one_of({0, 0, 3, 12}));
  }
  if (random() % 2 == 0) params.logprobs = static_cast<int64_t>(one_of({0, 1, 5, 20}));
  return params;
}

// Sequences with a sampler each, twice: of a session that hands out logits and of one that draws.
class Twins {
 public:
  Twins(Engine& engine, uint32_t seed)
      : engine_(engine), random_(seed), by_logits_(open()), drawing_(open()) {
    for (int64_t i = 0; i < 6; ++i) add();
  }

  // A step of some of the sequences; now and then one has another sampler, or one that has gone on.
  void step() {
    std::vector<SequenceToken> batch;
    std::vector<std::size_t> who;
    std::vector<Sampler*> samplers;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      if (random_() % 4 == 0 && !(batch.empty() && i + 1 == sequences_.size())) continue;
      meddle(sequences_[i]);
      batch.push_back(sequences_[i].next);
      who.push_back(i);
      samplers.push_back(random_() % 10 == 0 ? nullptr : &sequences_[i].sampler);
    }
    const std::vector<float> rows = by_logits_->decode(0, batch);
    const std::vector<int32_t> drawn = drawing_->decode_sampled(0, batch, samplers);
    for (std::size_t i = 0; i < who.size(); ++i) {
      Sequence& one = sequences_[who[i]];
      const std::vector<float> row = row_of(rows, i, kVocab);
      const int32_t expected = samplers[i] == nullptr ? best_of(row) : one.expected.pick(row);
      ASSERT_EQ(drawn[i], expected);
      one.next.token = expected;
      ASSERT_EQ(one.sampler.picked(), one.expected.picked());
      if (samplers[i] != nullptr) expect_same_logprobs(one);
    }
  }

 private:
  struct Sequence {
    std::vector<int32_t> prompt;
    SequenceToken next;
    Sampler sampler, expected;
  };

  [[nodiscard]] std::unique_ptr<Session> open() {
    return engine_.open(std::vector<AttentionConfig>{small_shadow()});
  }
  [[nodiscard]] Sampler sampler_for(const std::vector<int32_t>& prompt) {
    return engine_.make_sampler(random_params(random_), prompt, false);
  }
  void add() {
    const auto prompt =
        random_ids(1 + static_cast<int64_t>(random_() % 120), static_cast<uint32_t>(random_()));
    const SequenceId id = by_logits_->add(300);
    ASSERT_EQ(drawing_->add(300), id);
    const Sampler sampler = sampler_for(prompt);
    sequences_.push_back(
        {.prompt = prompt, .next = {.sequence = id}, .sampler = sampler, .expected = sampler});
    Sequence& one = sequences_.back();
    one.next.token = one.expected.pick(by_logits_->prefill(id, prompt));
    ASSERT_EQ(drawing_->prefill_sampled(id, prompt, one.sampler), one.next.token);
    ASSERT_EQ(one.sampler.picked(), one.expected.picked());
    expect_same_logprobs(one);
  }
  void meddle(Sequence& one) {
    const auto chance = random_() % 20;
    if (one.expected.is_finished() || chance == 0) {
      one.sampler = sampler_for(one.prompt);
      one.expected = one.sampler;
    } else if (chance == 1) {
      one.sampler = Sampler(one.expected);
    } else if (chance == 2 && !one.expected.params().json_object) {
      for (int i = 0; i < 3; ++i) {
        const auto token = static_cast<int32_t>(random_() % kVocab);
        one.sampler.take(token);
        one.expected.take(token);
      }
    }
  }
  static void expect_same_logprobs(const Sequence& one) {
    const auto found = one.sampler.logprobs(), expected = one.expected.logprobs();
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(found[i].id, expected[i].id);
      ASSERT_EQ(found[i].logprob, expected[i].logprob);
    }
  }

  Engine& engine_;
  std::mt19937 random_;
  std::unique_ptr<Session> by_logits_, drawing_;
  std::vector<Sequence> sequences_;
};

TEST_P(SampledSteps, DrawsAndRanksWhatSamplersDoThatAreHandedTheLogits) {
  constexpr uint32_t kSeeds = kIsSanitized ? 3 : 12;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    Twins twins(*engine_, seed);
    for (int step = 0; step < 30; ++step) {
      ASSERT_NO_FATAL_FAILURE(twins.step()) << "seed " << seed << ", step " << step;
    }
  }
}

// The steps of one set of sequences, so that a recorded step serves throughout.
TEST_P(SampledSteps, AStepThatComesAgainAndAgainDrawsAsTheLatestSays) {
  const std::vector<int32_t> prompt = random_ids(40);
  const auto by_logits = engine_->open(std::vector<AttentionConfig>{small_shadow()});
  std::vector<SequenceToken> batch;
  const SamplingParams all{.temperature = 0.9,
                           .seed = 4,
                           .repetition_penalty = 1.2,
                           .frequency_penalty = 0.4,
                           .logit_bias = {{7, 2.0}},
                           .min_tokens = 20,
                           .stop_ids = {11, 12},
                           .logprobs = 4};
  std::vector<Sampler> samplers = {
      engine_->make_sampler(all, prompt, false), Sampler({.temperature = 1.1, .seed = 2}),
      engine_->make_sampler({.temperature = 1.5, .seed = 9, .json_object = true}, prompt, false),
      engine_->make_sampler({.logprobs = 2}, prompt, false)};
  std::vector<Sampler> expected = samplers;
  const Sampler fresh = samplers[2];
  std::vector<Sampler*> pointers;
  for (Sampler& sampler : samplers) {
    batch.push_back({by_logits->add(100), 5});
    (void)by_logits->prefill(batch.back().sequence, prompt);
    ASSERT_EQ(session_->add(100), batch.back().sequence);
    (void)session_->prefill(batch.back().sequence, prompt);
    pointers.push_back(&sampler);
  }
  for (int step = 0; step < 40; ++step) {
    if (expected[2].is_finished()) samplers[2] = expected[2] = Sampler(fresh);
    const std::vector<float> rows = by_logits->decode(0, batch);
    const std::vector<int32_t> drawn = session_->decode_sampled(0, batch, pointers);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      ASSERT_EQ(drawn[i], expected[i].pick(row_of(rows, i, kVocab))) << "step " << step << ", row " << i;
      batch[i].token = drawn[i];
    }
  }
}

TEST_P(SampledSteps, KeepsMemoryForThoseAloneThatNeedItAndGivesItBack) {
  const std::vector<int32_t> prompt = random_ids(20);
  std::vector<SequenceToken> batch;
  for (int i = 0; i < 3; ++i) {
    batch.push_back({session_->add(40), 5});
    (void)session_->prefill(batch.back().sequence, prompt);
  }
  Sampler likeliest({}), drawn({.temperature = 1.0, .top_k = 9, .top_p = 0.9, .min_p = 0.01, .seed = 3});
  Sampler changed = engine_->make_sampler({.presence_penalty = 1.0}, prompt, false);
  Sampler told = engine_->make_sampler({.logprobs = 3}, prompt, false);
  Sampler both = engine_->make_sampler({.logit_bias = {{3, 1.0}}, .logprobs = 3}, prompt, false);
  const auto step = [&](const std::vector<Sampler*>& samplers) {
    (void)session_->decode_sampled(0, batch, samplers);
    return kept();
  };
  EXPECT_EQ(step({&likeliest, &drawn, nullptr}), 0);
  EXPECT_EQ(step({&told, &drawn, nullptr}), 0) << "ranks are of the logits as they are";
  EXPECT_EQ(step({&changed, &drawn, nullptr}), 0) << "nothing is in the answer yet";
  const int64_t one = step({&changed, &drawn, nullptr});
  EXPECT_GT(one, 0);
  EXPECT_LT(one, 10 * kVocab);
  EXPECT_EQ(step({&changed, &likeliest, nullptr}), one) << "it grows with what has come, not with steps";
  EXPECT_GE(step({&changed, &both, nullptr}), one + 4 * kVocab) << "a row of logits as they were";
  session_->remove(batch[1].sequence);
  EXPECT_EQ(kept(), one);
  session_->remove(batch[0].sequence);
  EXPECT_EQ(kept(), 0);
}

// A token that has come is brought by the step; one that failed has brought it to nobody, whatever others do.
TEST(StepSamplings, BringAgainWhatAFailedStepWasToBring) {
  const auto device = make_cpu_device({.threads = 1});
  StepSampling steps(*device);
  Sampler changed({.presence_penalty = 1.0}, {.prompt = {}, .end_tokens = {}, .constraint = nullptr});
  Sampler plain({.temperature = 1.0});
  Sampler *const with_changes = &changed, *const without = &plain;
  const SequenceToken first{.sequence = 0}, second{.sequence = 1};
  const std::vector<int32_t> drawn = {7};
  const auto prepare_changed = [&] {
    steps.prepare(0, {&first, 1}, {&with_changes, 1}, kVocab);
    return steps.changes()[0];
  };
  std::vector<float> logits(kVocab);
  for (const int32_t token : {3, 4}) {
    changed.take(token);
    change_row(logits.data(), kVocab, prepare_changed());
    steps.finish(drawn, {});  // which counts a token more
  }
  (void)prepare_changed();  // and its step fails
  steps.prepare(0, {&second, 1}, {&without, 1}, kVocab);
  steps.finish(drawn, {});
  const LogitRow again = prepare_changed();
  change_row(logits.data(), kVocab, again);
  std::vector<int32_t> marked;
  for (int32_t i = 0; i < again.marked_count; ++i) marked.push_back(again.marked[i].id);
  EXPECT_EQ(marked, (std::vector<int32_t>{3, 7, 4}));
  EXPECT_EQ(again.marked[1].seen, 3) << "which the step that failed was to bring";
}

}  // namespace
}  // namespace shadowkv::testing
