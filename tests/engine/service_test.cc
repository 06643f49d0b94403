// The service: many requests at once, each as if it were alone.
#include "shadowkv/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/engines.h"
#include "engine/requests.h"
#include "support/sanitizer.h"

namespace shadowkv::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

class Services : public ::testing::Test {
 protected:
  ServiceRequest request(int64_t prompt, int64_t more, uint32_t seed = 1) {
    ServiceRequest r;
    r.prompt_ids = random_ids(prompt, seed);
    r.max_new_tokens = more;
    r.ignore_eos = true;
    return r;
  }
  bool ends(const ServiceRequest& r, int32_t id) const {
    const std::vector<int32_t>& more = r.sampling.stop_ids;
    return (!r.ignore_eos && engine_->is_eos(id)) || std::find(more.begin(), more.end(), id) != more.end();
  }
  template <typename Refusal>
  void expect_refused(Service& service, const ServiceRequest& r, const std::string& part) {
    try {
      (void)service.submit(r);
      ADD_FAILURE() << "taken; expected \"" << part << "\"";
    } catch (const Refusal& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  }

  std::unique_ptr<Engine> engine_ = small_engine();
  std::unique_ptr<Engine> alone_ = small_engine();  // for what a request answers by itself
};

TEST_F(Services, AnswerRequestsTogetherAsEachAlone) {
  for (const AttentionConfig& method : {full_attention(), small_shadow()}) {
    const std::vector<KnownRequest> known = known_requests(*alone_, method, 20);
    const auto service = engine_->serve({.attention = method, .max_running = 7});
    std::vector<std::unique_ptr<Stream>> streams;
    for (const KnownRequest& one : known) streams.push_back(service->submit(one.request));
    for (std::size_t i = 0; i < known.size(); ++i) {
      EXPECT_EQ(read_all(*streams[i]), known[i].answer) << "request " << i;
      const RequestReport report = streams[i]->report();
      EXPECT_TRUE(report.ended);
      EXPECT_EQ(report.new_tokens, std::ssize(known[i].answer));
      const bool is_cut = report.finish == FinishReason::length;
      if (!known[i].request.sampling.json_object) {  // which ends by itself
        EXPECT_EQ(!is_cut, ends(known[i].request, known[i].answer.back()));
      }
      EXPECT_TRUE(!is_cut || std::ssize(known[i].answer) == known[i].request.max_new_tokens);
    }
    service->wait_idle();
    EXPECT_EQ(held_by_requests(*engine_), 0);
    const ServiceStatistics statistics = service->statistics();
    EXPECT_EQ(statistics.submitted, 20);
    EXPECT_EQ(statistics.finished, 20);
    EXPECT_EQ(statistics.first_token.count(), 20);
    EXPECT_EQ(statistics.first_token.count() + statistics.between_tokens.count(), statistics.new_tokens);
    EXPECT_EQ(statistics.running + statistics.reading + statistics.waiting + statistics.paused, 0);
  }
}

TEST_F(Services, ReadThePromptOfSeveralAnswersOnce) {
  for (const AttentionConfig& method : {full_attention(), small_shadow()}) {
    ServiceRequest asked = request(300, 20);
    asked.sampling = changed_logits(7);
    std::vector<std::vector<int32_t>> expected;
    for (int i = 0; i < 5; ++i, ++asked.sampling.seed)
      expected.push_back(answer_alone(*alone_, method, asked));
    asked.sampling.seed = 7;
    const auto service = engine_->serve({.attention = method});
    const auto streams = service->submit_several(asked, 5);
    ASSERT_EQ(streams.size(), 5u);
    for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(read_all(*streams[i]), expected[i]) << "answer " << i;
    service->wait_idle();
    EXPECT_EQ(service->statistics().prompt_tokens, 300);
    EXPECT_EQ(service->statistics().finished, 5);
    EXPECT_EQ(held_by_requests(*engine_), 0);
  }
}

// Whoever reads hands over to the next when it is cancelled.
TEST_F(Services, AnswersToOnePromptAreCancelledOneByOne) {
  ServiceRequest asked = request(900, 12);
  const std::vector<int32_t> expected = answer_alone(*alone_, small_shadow(), asked);
  for (const auto pause : {0ms, 2ms, 10ms, 40ms}) {
    const auto service = engine_->serve({.attention = small_shadow()});
    const auto streams = service->submit_several(asked, 4);
    streams[0]->cancel();
    std::this_thread::sleep_for(pause);
    streams[1]->cancel();
    streams[3]->cancel();
    EXPECT_EQ(read_all(*streams[2]), expected);
    service->wait_idle();
    EXPECT_EQ(held_by_requests(*engine_), 0);
    EXPECT_EQ(service->statistics().prompt_tokens, 900);
  }
}

TEST_F(Services, SeveralAnswersFitWhereOnlyOneByItselfWouldBesides) {
  const AttentionConfig method = full_attention();
  ServiceRequest asked = request(1000, 40);
  const std::vector<int32_t> expected = answer_alone(*alone_, method, asked);
  EngineOptions options = small_engine_options();
  const int64_t one = alone_->footprint(method, 1040).device;
  const auto probe = Engine::load(options);
  (void)answer_alone(*probe, method, asked);
  options.device_bytes = probe->memory().peak[0] + one / 2;
  options.host_bytes = 1 << 20;
  const auto engine = Engine::load(options);
  const auto service = engine->serve({.attention = method});
  const auto streams = service->submit_several(asked, 4);
  for (const auto& stream : streams) EXPECT_EQ(read_all(*stream), expected);
  service->wait_idle();
  const ServiceStatistics statistics = service->statistics();
  EXPECT_EQ(statistics.prompt_tokens, 1000);
  EXPECT_EQ(statistics.pauses + statistics.drops, 0);
  EXPECT_EQ(statistics.steps, 39) << "all four in each";
  EXPECT_EQ(statistics.step_tokens, 4 * 39);
}

// Room for a prompt that is read, and for all that four requests cannot do without, but not for their values.
TEST_F(Services, ValuesGiveWayBeforeAnyRequestDoes) {
  constexpr int64_t kPrompt = 1000, kMore = 60;
  const AttentionConfig method = small_shadow();
  const auto serve = [&](const EngineOptions& options, uint32_t count) {
    const auto engine = Engine::load(options);
    const auto service = engine->serve({.attention = method, .max_gap = 1000, .growth_tokens = 16});
    std::vector<std::unique_ptr<Stream>> streams(count);
    ServiceRequest first = request(kPrompt, kMore, 0);
    first.on_news = [&] {  // on the service's thread: all others come before it has ended
      for (uint32_t i = 1; i < count; ++i) {
        if (!streams[i]) streams[i] = service->submit(request(kPrompt, kMore, i));
      }
    };
    streams[0] = service->submit(first);
    service->wait_idle();
    for (uint32_t i = 0; i < count; ++i) {
      EXPECT_EQ(read_all(*streams[i]), answer_alone(*alone_, method, request(kPrompt, kMore, i))) << i;
    }
    return service->statistics();
  };
  EngineOptions options = small_engine_options();
  const SequenceFootprint one = alone_->footprint(method, kPrompt + kMore);
  options.device_bytes = serve(options, 1).memory.peak[0] + 3 * one.device + one.either / 2;
  const ServiceStatistics now = serve(options, 4);
  EXPECT_EQ(now.pauses + now.drops, 0);
  EXPECT_GT(now.attention.link.written + now.attention.link.moved_down, 0) << "all values had room";
}

TEST_F(Services, CountAnAnswerBeforeTheySayThatItHasEnded) {
  const auto service = engine_->serve({.attention = small_shadow()});
  for (const int64_t more : {1, 5}) {  // ends with its prompt, and in a step
    const ServiceStatistics before = service->statistics();
    std::optional<ServiceStatistics> at_end;
    ServiceRequest r = request(30, more);
    int64_t news = 0;
    r.on_news = [&] {
      if (++news == more) at_end = service->statistics();
    };
    (void)read_all(*service->submit(r));
    service->wait_idle();
    ASSERT_TRUE(at_end);
    EXPECT_EQ(at_end->finished, before.finished + 1);
    EXPECT_EQ(at_end->prompt_tokens, before.prompt_tokens + 30);
    EXPECT_EQ(at_end->new_tokens, before.new_tokens + more);
    EXPECT_EQ(at_end->running + at_end->reading, 0);
  }
}

TEST_F(Services, CountAnAnswerAsRunningBeforeItsFirstToken) {
  const auto service = engine_->serve({.attention = small_shadow()});
  std::vector<int64_t> running;
  ServiceRequest r = request(30, 3);
  r.on_news = [&] { running.push_back(service->statistics().running); };
  (void)read_all(*service->submit(r));
  service->wait_idle();
  EXPECT_EQ(running, (std::vector<int64_t>{1, 1, 0}));
}

// Both arrive at once while nobody waits for a step. Told on the service's thread, so that it is known what
// has been read when the second token comes.
TEST_F(Services, GoOnWithAnAnswerThatHasBegunBeforeTheyReadALongPrompt) {
  const auto service = engine_->serve({.attention = small_shadow()});
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<int64_t> read;
  ServiceRequest brief = request(30, 3);
  brief.on_news = [&] { read.push_back(service->statistics().prompt_tokens); };
  ServiceRequest before = request(20, 1);
  before.on_news = [&] {
    streams.push_back(service->submit(brief));
    streams.push_back(service->submit(request(900, 1)));
  };
  const auto first = service->submit(before);  // lives on: a stream that goes wakes the service
  service->wait_idle();
  EXPECT_EQ(read, (std::vector<int64_t>{50, 50, 50}));
  EXPECT_EQ(service->statistics().prompt_tokens, 950);
}

TEST_F(Services, FindEveryRequestInOneStateAtAnyTime) {
  const auto service = engine_->serve({.attention = small_shadow(), .max_running = 4});
  const auto check = [&] {
    const ServiceStatistics now = service->statistics();
    EXPECT_EQ(now.submitted, now.waiting + now.reading + now.running + now.paused + now.finished +
                                 now.cancelled + now.failed);
  };
  std::vector<std::unique_ptr<Stream>> streams;
  for (int64_t i = 0; i < 24; ++i) {
    for (auto& stream : service->submit_several(request(20 + 3 * i, 12), 1 + i % 3)) {
      streams.push_back(std::move(stream));
      check();
    }
  }
  for (std::size_t i = 0; i < streams.size(); i += 5) streams[i]->cancel();
  for (const auto& stream : streams) {
    while (stream->next()) check();
  }
  service->wait_idle();
  check();
}

// Ids, texts and log-probabilities of an answer.
struct Told {
  std::vector<int32_t> ids;
  std::string text;
  std::vector<std::vector<std::pair<int32_t, float>>> logprobs;
  FinishReason finish = FinishReason::length;
  bool operator==(const Told&) const = default;

  void add(const TokenEvent& event) {
    ids.push_back(event.id);
    text += event.text;
    logprobs.emplace_back();
    for (const TokenLogprob& one : event.logprobs) logprobs.back().emplace_back(one.id, one.logprob);
  }
};

TEST_F(Services, TellLogprobsAndStopTextsTogetherAsGenerateDoesAlone) {
  std::vector<ServiceRequest> requests;
  std::vector<Told> expected;
  int64_t stopped = 0;
  for (int i = 0; i < 12; ++i) {
    ServiceRequest r = request(10 + 7 * i, 30, static_cast<uint32_t>(i + 1));
    if (i % 2 == 1) r.sampling = changed_logits(static_cast<uint64_t>(i));
    r.sampling.stop_ids.clear();
    r.sampling.logprobs = i % 4;
    r.sampling.stop = {"no such", std::string(1, static_cast<char>('a' + i)), "1", "2", "3", "Q", "/"};
    GenerateRequest alone;
    alone.prompt_ids = r.prompt_ids;
    alone.attention = small_shadow();
    alone.sampling = r.sampling;
    alone.max_new_tokens = r.max_new_tokens;
    alone.ignore_eos = r.ignore_eos;
    Told told;
    const GenerateResult result = alone_->generate(alone, [&](const TokenEvent& event) {
      told.add(event);
      return true;
    });
    told.finish = result.finish;
    EXPECT_EQ(told.text, result.text);
    stopped += told.finish == FinishReason::stop ? 1 : 0;
    for (const auto& token : told.logprobs) EXPECT_EQ(std::ssize(token), 1 + i % 4);
    expected.push_back(told);
    requests.push_back(r);
  }
  EXPECT_GT(stopped, 2) << "no answer has one of the stop texts; choose others";
  EXPECT_LT(stopped, 12);
  const auto service = engine_->serve({.attention = small_shadow(), .max_running = 5});
  std::vector<std::unique_ptr<Stream>> streams;
  for (const ServiceRequest& r : requests) streams.push_back(service->submit(r));
  for (std::size_t i = 0; i < streams.size(); ++i) {
    Told told;
    while (const auto event = streams[i]->next()) told.add(*event);
    told.finish = streams[i]->report().finish;
    EXPECT_EQ(told, expected[i]) << "request " << i;
  }
}

// At too many places behind their first and third byte: found with the first token and in a step.
TEST_F(Services, AConstraintBeyondItsBoundsFailsAlone) {
  const auto service = engine_->serve({.attention = small_shadow()});
  const auto other = service->submit(request(40, 60, 3));
  for (const char* pattern : {"x(a?){3000}", "xyz(a?){3000}"}) {
    ServiceRequest large = request(10, 30, 2);
    large.ignore_eos = false;
    large.sampling.regex = pattern;
    const auto fails = service->submit(large);
    EXPECT_THROW((void)read_all(*fails), InvalidInput) << pattern;
  }
  EXPECT_EQ(read_all(*other), answer_alone(*alone_, small_shadow(), request(40, 60, 3)));
  service->wait_idle();
  EXPECT_EQ(service->statistics().failed, 2);
  EXPECT_EQ(held_by_requests(*engine_), 0);
}

TEST_F(Services, APromptThatIsReadLeavesRunningStreamsTheirTokens) {
  const auto service = engine_->serve({.attention = small_shadow()});
  const auto running = service->submit(request(50, 300));
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(running->next());
  const auto long_one = service->submit(request(3000, 1, 2));
  int64_t meanwhile = 0;
  while (!long_one->report().ended && running->next()) ++meanwhile;
  EXPECT_GT(meanwhile, 5) << "the prompt was read in one piece";
  EXPECT_EQ(read_all(*long_one), answer_alone(*alone_, small_shadow(), request(3000, 1, 2)));
}

// Submitted from the service's thread, so that each is there when it has to be.
TEST_F(Services, AShortPromptDoesNotWaitForALongOneThatCameBefore) {
  const auto service = engine_->serve({.attention = small_shadow(), .max_running = 3});
  const ServiceRequest long_one = request(3000, 4, 2), short_one = request(20, 4, 3);
  std::unique_ptr<Stream> reads_long, reads_short;
  ServiceRequest noticed = short_one;
  std::optional<int64_t> of_the_long;  // tokens, when the short one has its first
  noticed.on_news = [&] {
    if (!of_the_long) of_the_long = reads_long->report().new_tokens;
  };
  ServiceRequest running = request(50, 300);
  int64_t news = 0;
  running.on_news = [&] {
    ++news;
    if (news == 2) reads_long = service->submit(long_one);
    if (news == 5) reads_short = service->submit(noticed);  // the long one is being read
  };
  const auto runs = service->submit(running);
  EXPECT_EQ(read_all(*runs), answer_alone(*alone_, small_shadow(), request(50, 300)));
  service->wait_idle();
  EXPECT_EQ(of_the_long, 0);
  EXPECT_EQ(read_all(*reads_long), answer_alone(*alone_, small_shadow(), long_one));
  EXPECT_EQ(read_all(*reads_short), answer_alone(*alone_, small_shadow(), short_one));
}

// From one token to all that the context holds.
TEST_F(Services, AnswerAnyLengthsInOneStep) {
  const std::vector<int64_t> lengths = {1, 2, 63, 500};
  const ServiceRequest longest = request(3900, 1000, 9);
  for (const AttentionConfig& method : {full_attention(), small_shadow()}) {
    if (kIsSanitized && method.method == Method::full) continue;  // which takes it half of its time
    const auto service = engine_->serve({.attention = method, .max_reading = 1, .max_gap = 1000});
    std::vector<std::unique_ptr<Stream>> others;
    int64_t most = 0, news = 0;
    ServiceRequest noticed = longest;
    noticed.on_news = [&] {
      if (++news == 2) {
        for (const int64_t length : lengths) others.push_back(service->submit(request(length, 40)));
      }
      most = std::max(most, service->statistics().running);
    };
    const auto stream = service->submit(noticed);
    EXPECT_EQ(read_all(*stream), answer_alone(*alone_, method, longest));
    service->wait_idle();
    EXPECT_EQ(most, 1 + std::ssize(lengths)) << "they were never in one step";
    EXPECT_EQ(stream->report().prompt_tokens + stream->report().new_tokens, engine_->model().context);
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      EXPECT_EQ(read_all(*others[i]), answer_alone(*alone_, method, request(lengths[i], 40))) << lengths[i];
    }
  }
}

TEST_F(Services, ShowTheLayersOfTheRequestThatAskedForThemAlone) {
  const auto service = engine_->serve({.attention = small_shadow()});
  const int64_t layers = engine_->model().layers;
  int64_t seen_layers = 0, attended = 0;
  ServiceRequest seen = request(300, 20, 2);
  seen.observer = [&](const LayerObservation& one) {
    EXPECT_EQ(one.layer, seen_layers++ % layers);
    attended = std::ssize(one.attended[0]);
  };
  ServiceRequest throws = request(40, 50, 3);
  throws.observer = [](const LayerObservation&) { throw std::runtime_error("from the observer"); };
  const auto other = service->submit(request(60, 40, 4)), watched = service->submit(seen);
  const auto bad = service->submit(throws);
  EXPECT_EQ(read_all(*watched), answer_alone(*alone_, small_shadow(), request(300, 20, 2)));
  EXPECT_EQ(seen_layers, 19 * layers) << "the first token is the prompt's";
  EXPECT_TRUE(0 < attended && attended < 150) << attended << " of 319 tokens";
  EXPECT_EQ(read_all(*other), answer_alone(*alone_, small_shadow(), request(60, 40, 4)));
  EXPECT_LT(std::ssize(read_all(*bad)), 50);
  EXPECT_EQ(bad->report().finish, FinishReason::cancelled);
  service->wait_idle();
  EXPECT_EQ(service->statistics().cancelled, 1);
  EXPECT_EQ(held_by_requests(*engine_), 0);
}

TEST_F(Services, CountWhatCrossesTheLink) {
  AttentionConfig method = small_shadow();
  for (const Placement placement : {Placement::spill, Placement::host}) {
    method.placement = placement;
    const auto service = engine_->serve({.attention = method});
    (void)read_all(*service->submit(request(300, 20)));
    service->wait_idle();
    const SessionStatistics now = service->statistics().attention;
    EXPECT_EQ(now.decode_steps, 19);
    EXPECT_EQ(now.link.read > 0, placement == Placement::host);
    EXPECT_EQ(now.link.written > 0, placement == Placement::host);
    EXPECT_EQ(now.link.moved_up + now.link.moved_down, 0);
  }
}

TEST_F(Services, CancellingGivesEverythingBackAndLeavesOthersAlone) {
  const auto service = engine_->serve({.attention = small_shadow()});
  const auto other = service->submit(request(80, 60, 3));
  const auto expected = answer_alone(*alone_, small_shadow(), request(80, 60, 3));
  auto waits = service->submit(request(2000, 100, 4));
  auto answers = service->submit(request(30, 500, 5));
  waits->cancel();
  while (answers->try_next() || !answers->report().ended) {
    if (answers->report().new_tokens > 3) answers->cancel();
  }
  EXPECT_EQ(answers->report().finish, FinishReason::cancelled);
  EXPECT_EQ(read_all(*waits), std::vector<int32_t>());
  EXPECT_EQ(read_all(*other), expected);
  service->submit(request(700, 500, 6)).reset();  // whose stream is gone is cancelled
  service->wait_idle();
  EXPECT_EQ(held_by_requests(*engine_), 0);
  EXPECT_EQ(service->statistics().cancelled, 3);
}

TEST_F(Services, RefuseOneByOneWhatTheyCannotDo) {
  const auto service = engine_->serve({.attention = small_shadow()});
  const auto running = service->submit(request(40, 200));
  const auto refuse = [&](const std::function<void(ServiceRequest&)>& change, const std::string& part) {
    ServiceRequest bad = request(10, 5);
    change(bad);
    expect_refused<InvalidInput>(*service, bad, part);
  };
  refuse([](ServiceRequest& r) { r.prompt_ids.clear(); }, "prompt is empty");
  refuse([](ServiceRequest& r) { r.prompt = "text"; }, "as text and as 10 ids");
  refuse([](ServiceRequest& r) { r.prompt_ids[3] = 288; }, "token id 288");
  refuse([](ServiceRequest& r) { r.prompt_ids[0] = -1; }, "token id -1");
  refuse([](ServiceRequest& r) { r.prompt_ids = random_ids(4096); }, "context is 4096");
  refuse([](ServiceRequest& r) { r.max_new_tokens = 0; }, "max-new-tokens = 0");
  refuse([](ServiceRequest& r) { r.sampling.temperature = -1; }, "temperature = -1");
  refuse([](ServiceRequest& r) { r.sampling.top_p = 0; }, "top-p = 0");
  refuse([](ServiceRequest& r) { r.sampling.min_tokens = 6; },
         "min-tokens = 6 is more than max-new-tokens = 5");
  refuse([](ServiceRequest& r) { r.sampling.json_object = true; }, "ignore-eos is given with a constraint");
  refuse(
      [](ServiceRequest& r) {
        r.ignore_eos = false;
        r.sampling.json_schema = R"({"type": "string", "not": {}})";
      },
      "\"not\" is not supported");
  refuse([](ServiceRequest& r) { r.sampling.logit_bias[288] = 1; }, "logit-bias names token 288");
  refuse([](ServiceRequest& r) { r.sampling.stop = {""}; }, "stop text 1 has 0 bytes");
  EXPECT_EQ(read_all(*running), answer_alone(*alone_, small_shadow(), request(40, 200)));
  EXPECT_EQ(service->statistics().submitted, 1);
}

TEST_F(Services, RefuseOptionsOutOfRange) {
  EXPECT_THROW((void)engine_->serve({.max_running = 0}), InvalidInput);
  EXPECT_THROW((void)engine_->serve({.max_reading = 0}), InvalidInput);
  EXPECT_THROW((void)engine_->serve({.max_waiting = 0}), InvalidInput);
  EXPECT_THROW((void)engine_->serve({.max_gap = 1.0}), InvalidInput);
  EXPECT_THROW((void)engine_->serve({.growth_tokens = 0}), InvalidInput);
}

TEST_F(Services, RefuseWhatCouldNeverFitWithBothNumbers) {
  EngineOptions options = small_engine_options();
  options.device_bytes = 1'500'000;
  options.host_bytes = 100'000;
  const auto small = Engine::load(options);
  const auto service = small->serve({.attention = full_attention()});
  const auto running = service->submit(request(50, 30));
  expect_refused<OutOfMemory>(*service, request(3000, 1000), "4000 tokens needs");
  expect_refused<OutOfMemory>(*service, request(3000, 1000), "are all that requests can have");
  EXPECT_EQ(read_all(*running), answer_alone(*alone_, full_attention(), request(50, 30)));
}

TEST_F(Services, RefuseMoreThanMayWaitAndTakeThemLater) {
  const auto service = engine_->serve({.attention = full_attention(), .max_running = 1, .max_waiting = 2});
  std::atomic<bool> began{false}, goes_on{false};
  ServiceRequest first = request(20, 3);
  first.on_news = [&] {
    began = true;
    while (!goes_on) std::this_thread::yield();
  };
  const auto running = service->submit(first);
  while (!began) std::this_thread::yield();
  const auto a = service->submit(request(20, 3)), b = service->submit(request(20, 3));
  expect_refused<Busy>(*service, request(20, 3), "2 requests wait");
  goes_on = true;
  (void)read_all(*a);
  (void)read_all(*b);
  EXPECT_EQ(read_all(*service->submit(request(20, 3))).size(), 3u);
}

TEST_F(Services, AHigherPriorityGoesFirstAndClientsTakeTurns) {
  const auto service = engine_->serve({.attention = full_attention(), .max_running = 1});
  std::mutex mutex;
  std::string order;
  std::atomic<bool> goes_on{false};
  const auto submit = [&](const std::string& name, const std::string& client, int priority) {
    ServiceRequest r = request(20, 4);
    r.client = client;
    r.priority = priority;
    r.on_news = [&, name, seen = false]() mutable {
      while (!goes_on) std::this_thread::yield();
      const std::lock_guard lock(mutex);
      if (!std::exchange(seen, true)) order += name;
    };
    return service->submit(r);
  };
  std::vector<std::unique_ptr<Stream>> streams;
  streams.push_back(submit("0", "a", 0));
  while (streams[0]->report().new_tokens == 0) std::this_thread::yield();
  for (const char* name : {"1", "2", "3"}) streams.push_back(submit(name, "a", 0));
  streams.push_back(submit("x", "b", 0));
  streams.push_back(submit("y", "b", 0));
  streams.push_back(submit("!", "c", 5));
  goes_on = true;
  service->wait_idle();
  EXPECT_EQ(order, "0!x1y23");
}

TEST_F(Services, ACallbackThatThrowsEndsItsOwnRequestAlone) {
  const auto service = engine_->serve({.attention = small_shadow()});
  const auto other = service->submit(request(60, 40, 2));
  ServiceRequest bad = request(30, 100);
  bad.on_news = [] { throw std::runtime_error("from the callback"); };
  const auto stream = service->submit(bad);
  EXPECT_LT(read_all(*stream).size(), 100u);
  EXPECT_EQ(stream->report().finish, FinishReason::cancelled);
  EXPECT_EQ(read_all(*other), answer_alone(*alone_, small_shadow(), request(60, 40, 2)));
}

TEST_F(Services, StreamsOutliveTheirServiceAndSayThatItEnded) {
  auto service = engine_->serve({.attention = small_shadow()});
  const auto stream = service->submit(request(60, 4000));
  ASSERT_TRUE(stream->next());
  service.reset();
  EXPECT_EQ(held_by_requests(*engine_), 0);
  EXPECT_THROW((void)read_all(*stream), Interrupted);
  stream->cancel();
}

TEST_F(Services, EndAtWhateverMomentTheyAreTold) {
  constexpr int kMoments = 4000;  // of the 120 us within which the thread has begun to wait
  for (int i = 0; i < kMoments; ++i) {
    const auto service = engine_->serve({.attention = full_attention()});
    const auto told = std::chrono::steady_clock::now() + std::chrono::nanoseconds(30) * i;
    while (std::chrono::steady_clock::now() < told) continue;
  }
}

TEST_F(Services, ManyThreadsMayUseOne) {
  const std::vector<KnownRequest> known = known_requests(*alone_, small_shadow(), 16);
  const auto service = engine_->serve({.attention = small_shadow(), .max_running = 5});
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < known.size(); i += 4) {
        const auto gone = service->submit(known[(i + 1) % known.size()].request);
        const auto stream = service->submit(known[i].request);
        (void)service->statistics();
        wrong += read_all(*stream) != known[i].answer ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  service->wait_idle();
  EXPECT_EQ(held_by_requests(*engine_), 0);
}

}  // namespace
}  // namespace shadowkv::testing
