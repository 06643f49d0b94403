// Sessions: several sequences and methods in flight over one model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/engines.h"
#include "shadowkv/device_lost.h"
#include "support/tolerances.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

class Sessions : public ::testing::Test {
 protected:
  std::unique_ptr<Session> open(const std::vector<AttentionConfig>& methods) {
    return engine_->open(methods);
  }
  // Prefill and some forced steps of one sequence under one method.
  std::vector<std::vector<float>> run(Session& session, int64_t method, const std::vector<int32_t>& prompt,
                                      const std::vector<int32_t>& steps) {
    const SequenceId id = session.add(static_cast<int64_t>(prompt.size() + steps.size()));
    std::vector<std::vector<float>> rows{session.prefill(id, prompt)};
    for (const int32_t token : steps) {
      const SequenceToken next{id, token};
      rows.push_back(session.decode(method, {&next, 1}));
    }
    session.remove(id);
    return rows;
  }
  template <typename Call>
  void expect_refused(const Call& call, const std::string& part) {
    try {
      call();
      ADD_FAILURE() << "taken; expected \"" << part << "\"";
    } catch (const InvalidInput& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  }

  std::unique_ptr<Engine> engine_ = small_engine();
};

TEST_F(Sessions, AMethodSharingAPrefillEqualsItselfAlone) {
  const std::vector<int32_t> prompt = random_ids(300), steps = random_ids(20, 2);
  const std::vector<AttentionConfig> methods = {full_attention(), small_shadow(), preset("paper")};
  const auto shared = open(methods);
  const SequenceId id = shared->add(320);
  const std::vector<float> first = shared->prefill(id, prompt);
  for (std::size_t m = 0; m < methods.size(); ++m) {
    const auto alone = run(*open({methods[m]}), 0, prompt, steps);
    EXPECT_EQ(first, alone[0]);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const SequenceToken next{id, steps[i]};
      ASSERT_EQ(shared->decode(static_cast<int64_t>(m), {&next, 1}), alone[i + 1]) << "method " << m;
    }
  }
}

TEST_F(Sessions, ASequenceReadsOnAsThoughItHadReadAllAtOnce) {
  const std::vector<int32_t> ids = random_ids(700), steps = random_ids(8, 2);
  AttentionConfig crossing = small_shadow();
  crossing.exact_below = 500;
  for (const AttentionConfig& method : {full_attention(), crossing}) {
    const auto alone = run(*open({method}), 0, ids, steps);
    const auto session = open({method});
    const SequenceId id = session->add(708);
    const std::span all(ids);
    (void)session->prefill(id, all.first(300));
    EXPECT_THROW((void)session->prefill(id, all.subspan(300), [](double) { throw Interrupted("stop"); }),
                 Interrupted);
    EXPECT_EQ(session->prefill(id, all.subspan(300)), alone[0]);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const SequenceToken next{id, steps[i]};
      ASSERT_NO_FATAL_FAILURE(expect_logits_near(session->decode(0, {&next, 1}), alone[i + 1], kCollapse))
          << "keys that are turned back and forth are rounded";
    }
  }
  const auto several = open({full_attention(), small_shadow()});
  const SequenceId id = several->add(400);
  (void)several->prefill(id, random_ids(300));
  expect_refused([&] { (void)several->prefill(id, random_ids(9)); }, "under one method alone, not 2");
}

TEST_F(Sessions, ReadingOnIsRefusedWhereItDoesNotFitAndLeavesWhatWas) {
  const auto engine = [] {
    EngineOptions options = small_engine_options();
    options.device_bytes = int64_t{3} << 20;
    options.host_bytes = int64_t{64} << 10;
    return Engine::load(options);
  }();
  const auto session = engine->open(std::vector{full_attention()});
  const SequenceId id = session->add(4000);
  (void)session->prefill(id, random_ids(100));
  EXPECT_THROW((void)session->prefill(id, random_ids(3900)), OutOfMemory);
  const auto before = engine->memory().held;
  EXPECT_EQ(session->prefill(id, random_ids(50, 2)).size(), 288u);
  EXPECT_GE(engine->memory().held[0], before[0]);
}

TEST_F(Sessions, SequencesInOneStepEqualThemselvesAlone) {
  for (const AttentionConfig& method : {full_attention(), small_shadow()}) {
    const std::vector<std::vector<int32_t>> prompts = {random_ids(5, 3), random_ids(400, 4),
                                                       random_ids(90, 5)};
    const std::vector<int32_t> steps = random_ids(10, 6);
    std::vector<std::vector<std::vector<float>>> alone;
    for (const auto& prompt : prompts) alone.push_back(run(*open({method}), 0, prompt, steps));
    const auto together = open({method});
    std::vector<SequenceToken> batch;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      batch.push_back({together->add(500), 0});
      EXPECT_EQ(together->prefill(batch[i].sequence, prompts[i]), alone[i][0]);
    }
    for (std::size_t step = 0; step < steps.size(); ++step) {
      for (SequenceToken& entry : batch) entry.token = steps[step];
      const std::vector<float> rows = together->decode(0, batch);
      for (std::size_t i = 0; i < batch.size(); ++i) ASSERT_EQ(row_of(rows, i, 288), alone[i][step + 1]);
    }
  }
}

TEST_F(Sessions, TheLikeliestTokenAloneIsThatOfTheLogits) {
  for (const AttentionConfig& method : {full_attention(), small_shadow()}) {
    const auto by_logits = open({method}), greedy = open({method});
    std::vector<SequenceToken> batch;
    for (const int64_t length : {30, 200}) {
      batch.push_back({by_logits->add(220), 5});
      (void)by_logits->prefill(batch.back().sequence, random_ids(length));
      ASSERT_EQ(greedy->add(220), batch.back().sequence);
      (void)greedy->prefill(batch.back().sequence, random_ids(length));
    }
    for (int step = 0; step < 15; ++step) {
      const std::vector<float> rows = by_logits->decode(0, batch);
      const std::vector<int32_t> picked = greedy->decode_greedy(0, batch);
      for (std::size_t i = 0; i < batch.size(); ++i) {
        ASSERT_EQ(picked[i], best_of(row_of(rows, i, 288)));
        batch[i].token = picked[i];
      }
    }
  }
}

TEST_F(Sessions, TokensDrawnInAStepAreThoseThatTheSamplersPickFromItsLogits) {
  for (const AttentionConfig& method : {full_attention(), small_shadow()}) {
    const auto by_logits = open({method}), drawing = open({method});
    std::vector<SequenceToken> batch;
    std::vector<Sampler> expected = {Sampler({.temperature = 1.5, .seed = 3}), Sampler({}),
                                     Sampler({.temperature = 0.8, .top_k = 40, .top_p = 0.9, .seed = 4})};
    std::vector<Sampler> samplers = expected;
    std::vector<Sampler*> pointers;
    for (std::size_t i = 0; i < samplers.size(); ++i) {
      const auto length = static_cast<int64_t>(30 + 90 * i);
      batch.push_back({by_logits->add(280), 5});
      (void)by_logits->prefill(batch.back().sequence, random_ids(length));
      ASSERT_EQ(drawing->add(280), batch.back().sequence);
      (void)drawing->prefill(batch.back().sequence, random_ids(length));
      pointers.push_back(&samplers[i]);
    }
    for (int step = 0; step < 15; ++step) {
      const std::vector<float> rows = by_logits->decode(0, batch);
      const std::vector<int32_t> drawn = drawing->decode_sampled(0, batch, pointers);
      for (std::size_t i = 0; i < batch.size(); ++i) {
        ASSERT_EQ(drawn[i], expected[i].pick(row_of(rows, i, 288))) << "step " << step;
        ASSERT_EQ(samplers[i].picked(), expected[i].picked());
        batch[i].token = drawn[i];
      }
    }
  }
}

TEST_F(Sessions, SamplersMustBeAsManyAsSequencesAndGoOnOnlyWithThem) {
  const auto session = open({full_attention()});
  const SequenceToken next{session->add(8), 5};
  (void)session->prefill(next.sequence, random_ids(4));
  Sampler sampler({.temperature = 1.0});
  const std::vector<Sampler*> one = {&sampler}, two = {&sampler, &sampler};
  expect_refused([&] { (void)session->decode_sampled(0, {&next, 1}, two); }, "2 samplers");
  expect_refused([&] { (void)session->decode_sampled(0, {&next, 1}, {}); }, "0 samplers");
  const SequenceToken unknown{77, 5};
  expect_refused([&] { (void)session->decode_sampled(0, {&unknown, 1}, one); }, "77 is unknown");
  EXPECT_EQ(sampler.picked(), 0u);
  (void)session->decode_sampled(0, {&next, 1}, one);
  EXPECT_EQ(sampler.picked(), 1u);
}

TEST_F(Sessions, APromptWhoseFirstTokenCannotBeDrawnLeavesItsSequenceAsItWas) {
  const auto session = open({small_shadow()});
  const SequenceId id = session->add(60);
  Sampler sampler({});
  expect_refused([&] { (void)session->prefill_sampled(77, random_ids(4), sampler); }, "77 is unknown");
  SamplingParams beyond_bounds;
  beyond_bounds.regex = "x(a?){3000}";  // at too many places behind its first byte
  Sampler fails = engine_->make_sampler(beyond_bounds, random_ids(4), false);
  expect_refused([&] { (void)session->prefill_sampled(id, random_ids(4), fails); }, "places at once");
  EXPECT_EQ(sampler.picked() + fails.picked(), 0u);
  const std::vector<float> logits = session->prefill(id, random_ids(4));
  const std::vector<int32_t> more = random_ids(5, 2);
  expect_refused([&] { (void)session->prefill_sampled(id, more, fails); }, "places at once");
  const auto other = open({small_shadow()});
  ASSERT_EQ(other->add(60), id);
  EXPECT_EQ(other->prefill(id, random_ids(4)), logits);
  EXPECT_EQ(session->prefill(id, more), other->prefill(id, more));
}

// For benchmarks: state that is made up has the sizes of the real one and can be decoded on.
TEST_F(Sessions, MadeUpStateHoldsAndAttendsWhatAPromptOfItsLengthWould) {
  const std::vector<AttentionConfig> methods = {full_attention(), small_shadow(), preset("paper")};
  for (const int64_t tokens : {1, 41, 300, 700}) {  // paper: no outlier, one, some, all that it may have
    const auto real = open(methods), made_up = open(methods);
    const SequenceId id = real->add(tokens + 20);
    (void)real->prefill(id, random_ids(tokens));
    ASSERT_EQ(made_up->add(tokens + 20), id);
    made_up->fill(id, tokens, 9);
    for (int64_t method = 0; method < 3; ++method) {
      for (int step = 0; step < 10; ++step) {
        const SequenceToken next{id, 20 + step};
        (void)real->decode(method, {&next, 1});
        for (const float x : made_up->decode(method, {&next, 1})) ASSERT_TRUE(std::isfinite(x));
      }
      const SessionStatistics a = real->statistics(method), b = made_up->statistics(method);
      EXPECT_EQ(a.held_bytes, b.held_bytes) << tokens << " tokens, method " << method;
      EXPECT_EQ(a.context_tokens, b.context_tokens);
      EXPECT_EQ(a.attended_tokens, b.attended_tokens) << tokens << " tokens, method " << method;
      EXPECT_EQ(a.chosen_chunks, b.chosen_chunks) << tokens << " tokens, method " << method;
    }
  }
}

// For benchmarks: timing changes no result, and ends with the session.
TEST_F(Sessions, OpsAreTimedWhileAskedForAndDoTheSame) {
  const std::vector<int32_t> prompt = random_ids(300), steps = random_ids(3, 2);
  const auto expected = run(*open({small_shadow()}), 0, prompt, steps);
  const auto plain = open({small_shadow()});
  {
    const auto timed = open({small_shadow()});
    expect_refused([&] { (void)timed->op_times(); }, "none are timed");
    const SequenceId id = timed->add(320);
    timed->time_ops(true);
    ASSERT_EQ(timed->prefill(id, prompt), expected[0]);
    EXPECT_FALSE(timed->op_times().empty());
    for (std::size_t i = 0; i < steps.size(); ++i) {
      const SequenceToken next{id, steps[i]};
      ASSERT_EQ(timed->decode(0, {&next, 1}), expected[i + 1]);
      int64_t logits = 0;
      for (const OpTime& time : timed->op_times()) {
        EXPECT_GE(time.seconds, 0) << time.op;
        if (time.op == "matmul" && time.rows == 288) logits += time.runs;
      }
      EXPECT_EQ(logits, 1) << "each reading holds one step";
    }
    timed->time_ops(false);
    expect_refused([&] { (void)timed->op_times(); }, "none are timed");
    timed->time_ops(true);
  }
  EXPECT_EQ(run(*plain, 0, prompt, steps), expected);
}

TEST_F(Sessions, LayersAreObservedOfTheMethodThatWasAskedForAlone) {
  const auto session = open({full_attention(), small_shadow()});
  const SequenceId id = session->add(400);
  (void)session->prefill(id, random_ids(300));
  const int64_t layers = engine_->model().layers;
  int64_t calls = 0;
  session->observe(1, [&](const LayerObservation& seen) {
    EXPECT_EQ(seen.sequence, id);
    EXPECT_EQ(seen.layer, calls % layers);
    EXPECT_EQ(std::ssize(seen.q), seen.heads * seen.head_dim);
    EXPECT_EQ(std::ssize(seen.output), seen.heads * seen.head_dim);
    EXPECT_EQ(std::ssize(seen.attended), seen.kv_heads);
    EXPECT_LT(std::ssize(seen.attended[0]), 150) << "of 300 tokens";
    EXPECT_TRUE(seen.k.empty() && seen.v.empty()) << "keys are not held as they are";
    ++calls;
  });
  const SequenceToken next{id, 5};
  (void)session->decode(0, {&next, 1});
  EXPECT_EQ(calls, 0);
  (void)session->decode(1, {&next, 1});
  (void)session->decode_greedy(1, {&next, 1});
  EXPECT_EQ(calls, 2 * layers);
  session->observe(1, {});
  (void)session->decode(1, {&next, 1});
  EXPECT_EQ(calls, 2 * layers);
  session->observe(0, [&](const LayerObservation& seen) {
    EXPECT_EQ(std::ssize(seen.k), 302 * seen.kv_heads * seen.head_dim);
    EXPECT_EQ(seen.k.size(), seen.v.size());
  });
  (void)session->decode(0, {&next, 1});
  expect_refused([&] { session->observe(2, {}); }, "method 2");
}

TEST_F(Sessions, ASequenceCanBeRemovedWhileOthersGoOn) {
  const auto session = open({small_shadow()});
  const std::vector<int32_t> prompt = random_ids(200), steps = random_ids(6, 2);
  const auto alone = run(*open({small_shadow()}), 0, prompt, steps);
  const SequenceId other = session->add(300), id = session->add(206);
  (void)session->prefill(other, random_ids(250, 8));
  (void)session->prefill(id, prompt);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (i == 3) session->remove(other);
    std::vector<SequenceToken> batch = {{id, steps[i]}};
    if (i < 3) batch.push_back({other, 7});
    ASSERT_EQ(row_of(session->decode(0, batch), 0, 288), alone[i + 1]);
  }
}

TEST_F(Sessions, MisuseIsRefusedWithASentenceAndChangesNothing) {
  const auto session = open({full_attention()});
  const SequenceId id = session->add(4), empty = session->add(4);
  const std::vector<int32_t> prompt = {5, 6, 7};
  const auto alone = run(*open({full_attention()}), 0, prompt, {8});
  expect_refused([&] { (void)session->prefill(id, {}); }, "prompt is empty");
  expect_refused([&] { (void)session->prefill(id, random_ids(5)); }, "prompt of 5 tokens");
  expect_refused([&] { (void)session->prefill(77, prompt); }, "sequence 77 is unknown");
  expect_refused([&] { (void)session->prefill(id, std::vector<int32_t>{5, 288}); }, "token id 288");
  EXPECT_EQ(session->prefill(id, prompt), alone[0]);
  expect_refused([&] { (void)session->prefill(id, prompt); }, "a sequence of at most 4, which holds 3");
  const auto decode = [&](std::vector<SequenceToken> batch, int64_t method = 0) {
    return [&session, batch, method] { (void)session->decode(method, batch); };
  };
  expect_refused(decode({{77, 1}}), "sequence 77 is unknown");
  expect_refused(decode({{id, 1}, {id, 2}}), "stands twice");
  expect_refused(decode({{empty, 1}}), "no prompt yet");
  expect_refused(decode({{id, -1}}), "token id -1");
  expect_refused(decode({{id, 1}}, 1), "method 1");
  expect_refused(decode({{id, 1}}, -1), "method -1");
  expect_refused(decode({}), "0 sequences");
  const SequenceToken next{id, 8};
  EXPECT_EQ(session->decode(0, {&next, 1}), alone[1]);
  expect_refused(decode({{id, 1}}), "holds 4 tokens");
  expect_refused([&] { (void)session->add(0); }, "0 tokens");
  expect_refused([&] { (void)session->add(4097); }, "context is 4096");
  expect_refused([&] { (void)open({}); }, "no attention method");
}

TEST_F(Sessions, StatisticsCountWhatWasAttended) {
  const auto session = open({full_attention(), small_shadow()});
  const SequenceId id = session->add(420);
  (void)session->prefill(id, random_ids(400));
  for (int64_t method = 0; method < 2; ++method) {
    for (int32_t i = 0; i < 20; ++i) {
      const SequenceToken next{id, 10 + i};
      (void)session->decode(method, {&next, 1});
    }
  }
  const SessionStatistics full = session->statistics(0), shadow = session->statistics(1);
  EXPECT_EQ(full.decode_steps, 20);
  EXPECT_EQ(full.context_tokens, 20 * 400 + 210);
  EXPECT_DOUBLE_EQ(full.attended_tokens, static_cast<double>(full.context_tokens));
  EXPECT_EQ(shadow.context_tokens, full.context_tokens);
  EXPECT_LT(shadow.attended_tokens, static_cast<double>(20 * (32 + 4 + 32 + 8)));
  EXPECT_EQ(shadow.chosen_chunks, 20 * 8 * 2 * 2);  // 8 chunks under 2 KV heads of 2 layers
  EXPECT_GT(shadow.slot_hits, 0);
  EXPECT_LE(shadow.slot_hits, shadow.chosen_chunks);
  EXPECT_GT(full.held_bytes[0], 0);
}

TEST_F(Sessions, ASequenceThatCannotFitIsRefusedBeforeWorkWithBothNumbers) {
  EngineOptions options = small_engine_options();
  options.device_bytes = 1'500'000;
  options.host_bytes = 100'000;
  const auto small = Engine::load(options);
  const AttentionConfig method = full_attention();
  const auto session = small->open({&method, 1});
  const SequenceId id = session->add(4000);
  const EngineMemory before = small->memory();
  bool began = false;
  try {
    (void)session->prefill(id, random_ids(3000), [&](double) { began = true; });
    ADD_FAILURE() << "taken";
  } catch (const OutOfMemory& error) {
    EXPECT_THAT(error.what(), HasSubstr("4000 tokens needs"));
    EXPECT_THAT(error.what(), HasSubstr("are free"));
  }
  EXPECT_FALSE(began);
  EXPECT_EQ(small->memory().held, before.held);
  const SequenceId fits = session->add(50);
  EXPECT_EQ(session->prefill(fits, random_ids(40)).size(), 288u);
}

int64_t values_on_host(const Engine& engine) {
  for (const auto& [purpose, bytes] : engine.memory().by_purpose) {
    if (purpose == "values") return bytes[1];
  }
  return -1;
}

// On some device, too small for the values of both but not for all else, the first one's go to the host when
// the second comes; both then answer as they do alone.
TEST_F(Sessions, ValuesOfOthersMakeRoomForASequence) {
  const std::vector<int32_t> prompts[2] = {random_ids(1500, 3), random_ids(2000, 4)};
  AttentionConfig method = small_shadow();
  method.values = StorageType::float32;
  std::vector<float> alone[2];
  for (int i = 0; i < 2; ++i) alone[i] = run(*open({method}), 0, prompts[i], {7})[1];
  int moved = 0;
  for (int64_t bytes = 1'500'000; bytes < 8'000'000 && moved == 0; bytes += 50'000) {
    EngineOptions options = small_engine_options();
    options.device_bytes = bytes;
    const auto engine = Engine::load(options);
    const auto session = engine->open({&method, 1});
    const SequenceId ids[2] = {session->add(1600), session->add(2100)};
    try {
      (void)session->prefill(ids[0], prompts[0]);
      if (values_on_host(*engine) > 0) continue;
      (void)session->prefill(ids[1], prompts[1]);
    } catch (const OutOfMemory&) {
      continue;
    }
    if (values_on_host(*engine) == 0) break;  // there was room for both
    ++moved;
    const std::vector<SequenceToken> batch = {{ids[0], 7}, {ids[1], 7}};
    const std::vector<float> rows = session->decode(0, batch);
    for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(row_of(rows, i, 288), alone[i]);
  }
  EXPECT_EQ(moved, 1);
}

TEST_F(Sessions, ALostDeviceSaysWhatWasInFlight) {
  const auto session = open({small_shadow()});
  (void)session->prefill(session->add(60), random_ids(50));
  const SequenceId second = session->add(60);
  try {
    (void)session->prefill(second, random_ids(50), [](double) { throw DeviceLost("gone"); });
    ADD_FAILURE() << "taken";
  } catch (const DeviceLost& lost) {
    EXPECT_THAT(lost.what(), HasSubstr("gone; 2 sequences of 50 tokens in all were in flight"));
  }
}

TEST_F(Sessions, EndingASessionGivesEverythingBack) {
  (void)run(*open({full_attention(), small_shadow()}), 1, random_ids(700), random_ids(5));  // scratch at size
  const EngineMemory before = engine_->memory();
  {
    const auto session = open({full_attention(), small_shadow()});
    (void)run(*session, 1, random_ids(700), random_ids(5));
    (void)session->prefill(session->add(700), random_ids(690));
    EXPECT_GT(engine_->memory().held[0], before.held[0]);
  }
  EXPECT_EQ(engine_->memory().held, before.held);
}

}  // namespace
}  // namespace shadowkv::testing
