// Prefixes: what is kept of a prompt is what a sequence would hold that had read no more, and a request that
// finds it answers what the same follow-up turn answers, to the bit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "engine/engines.h"
#include "engine/requests.h"
#include "engine/session.h"
#include "engine/storage_cases.h"
#include "support/sanitizer.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kRoom = 4096;
constexpr int64_t kPlenty = int64_t{1} << 30;

std::vector<StorageCase> prefix_cases() {
  std::vector<StorageCase> cases = prefix_storage_cases();
  if (kIsSanitized) return cases;
  AttentionConfig landmarks = small_shadow();
  landmarks.index = IndexKind::landmarks;
  landmarks.chunk_size = 8;
  cases.push_back({"landmarks_without_outliers", landmarks});
  cases.push_back(
      {"shadow_wide_window", with(small_shadow(), [](AttentionConfig& c) { c.local_window = 700; })});
  return cases;
}

// The cuts of a prompt of so many tokens.
std::vector<int64_t> cuts_of(const PrefixCuts& where, int64_t tokens) {
  std::vector<int64_t> cuts;
  for (int64_t cut = where.every; where.every > 0 && cut <= tokens; cut += where.every) {
    if (cut >= where.least) cuts.push_back(cut);
  }
  return cuts;
}

std::span<const int32_t> between(const std::vector<int32_t>& ids, int64_t first, int64_t end) {
  return std::span(ids).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(end - first));
}

class Prefixes : public ::testing::TestWithParam<StorageCase> {
 protected:
  [[nodiscard]] ModelSession& session() { return static_cast<ModelSession&>(*session_); }

  // Reads behind what it holds; prefixes of it, by their lengths.
  std::vector<std::pair<SequenceId, int64_t>> read(SequenceId id, std::span<const int32_t> ids,
                                                   std::span<const int64_t> cuts) {
    std::vector<std::pair<SequenceId, int64_t>> kept;
    session().begin_prefill(id, ids);
    for (const int64_t cut : cuts) kept.emplace_back(session().begin_prefix(id, cut), cut);
    while (!session().prefill_is_done(id)) session().advance_prefill(id, 100);
    (void)session().end_prefill(id);
    for (const auto& [prefix, tokens] : kept) session().end_prefix(id, prefix);
    return kept;
  }
  // Logits of a prompt behind what a sequence holds, and of steps behind it.
  static std::vector<std::vector<float>> go_on(Session& of, SequenceId id, std::span<const int32_t> ids) {
    std::vector<std::vector<float>> rows{of.prefill(id, ids)};
    for (const int32_t token : random_ids(12, 9)) {
      const SequenceToken next{id, token};
      rows.push_back(of.decode(0, {&next, 1}));
    }
    return rows;
  }

  std::unique_ptr<Engine> engine_ = engine_of(GetParam().dtype), other_ = engine_of(GetParam().dtype);
  std::unique_ptr<Session> session_ = engine_->open(std::vector{GetParam().config});
  std::unique_ptr<Session> reference_ = other_->open(std::vector{GetParam().config});
};

TEST_P(Prefixes, AreWhatAShorterPromptLeaves) {
  const std::vector<int32_t> ids = random_ids(1400), others = random_ids(300, 5);
  for (const int64_t prompt : {300, 1400}) {
    const PrefixCuts where = session().prefix_cuts(prompt);
    std::vector<int64_t> cuts = cuts_of(where, prompt);
    if (cuts.empty()) continue;
    const SequenceId first = session().add(kRoom);
    const auto all = read(first, between(ids, 0, prompt),
                          where.serves_shorter ? std::span(cuts).last(1) : std::span(cuts));
    const SequenceToken next{first, 7};
    (void)session().decode(0, {&next, 1});
    session().remove(first);
    while (cuts.size() > 4) cuts.erase(cuts.begin() + 1);  // enough of many
    for (const int64_t cut : cuts) {
      const auto [prefix, tokens] =
          *std::ranges::find_if(all, [cut](const auto& one) { return one.second >= cut; });
      session().pause(prefix);
      session().resume(prefix);
      const SequenceId forked = session().fork_prefix(prefix, cut, kRoom);
      const SequenceId alone = reference_->add(kRoom);
      (void)reference_->prefill(alone, between(ids, 0, cut));
      EXPECT_EQ(go_on(session(), forked, others), go_on(*reference_, alone, others))
          << cut << " tokens of " << prompt;
      session().remove(forked);
    }
    for (const auto& [prefix, tokens] : all) session().remove(prefix);
    EXPECT_EQ(held_by_requests(*engine_), 0);
  }
}

// Of a sequence that itself began with one.
TEST_P(Prefixes, AreKeptOfFollowUpTurns) {
  const std::vector<int32_t> ids = random_ids(1400), others = random_ids(300, 5);
  const std::vector<int64_t> cuts = cuts_of(session().prefix_cuts(1400), 1400);
  if (cuts.size() < 2) return;
  const auto first = read(session().add(kRoom), between(ids, 0, 1100), std::span(cuts).first(1));
  const SequenceId forked = session().fork_prefix(first[0].first, cuts[0], kRoom);
  const auto second = read(forked, between(ids, cuts[0], 1400), std::span(cuts).subspan(1, 1));
  session().remove(first[0].first);
  session().remove(forked);
  const SequenceId again = session().fork_prefix(second[0].first, cuts[1], kRoom);
  const SequenceId alone = reference_->add(kRoom);
  (void)reference_->prefill(alone, between(ids, 0, cuts[0]));
  (void)reference_->prefill(alone, between(ids, cuts[0], cuts[1]));
  EXPECT_EQ(go_on(session(), again, others), go_on(*reference_, alone, others));
}

TEST_P(Prefixes, TakeWhatTheySay) {
  const std::vector<int32_t> ids = random_ids(1400);
  const std::vector<int64_t> cuts = cuts_of(session().prefix_cuts(1400), 1400);
  if (cuts.size() < 2) return;
  (void)session_->prefill(session_->add(100), random_ids(90));  // tables and scratch
  const int64_t before = held_by_requests(*engine_);
  const SequenceId id = session().add(kRoom);
  const auto kept = read(id, ids, std::vector{cuts[0], cuts[1]});
  const auto total = [](const Footprint& bytes) { return bytes.device + bytes.pinned_host + bytes.either; };
  const int64_t with_it = held_by_requests(*engine_) - before;
  session().remove(id);
  const int64_t both = held_by_requests(*engine_) - before;
  EXPECT_LE(both,
            total(session().prefix_bytes(cuts[0], 0)) + total(session().prefix_bytes(cuts[1], cuts[0])));
  EXPECT_LT(both, with_it) << "what follows the last is gone";
  session().remove(kept[1].first);
  EXPECT_EQ(held_by_requests(*engine_) - before, total(session().prefix_bytes(cuts[0], 0)));
  session().remove(kept[0].first);
  EXPECT_EQ(held_by_requests(*engine_), before);
}

// A service's second request with the same beginning.
TEST_P(Prefixes, AnswerAsTheSameFollowUpTurn) {
  const auto service = engine_->serve({.attention = GetParam().config, .prefix_cache_bytes = kPlenty});
  ServiceRequest first{.prompt_ids = random_ids(1300), .max_new_tokens = 6, .ignore_eos = true};
  ServiceRequest second = first;
  second.prompt_ids.resize(1250);
  for (const int32_t id : random_ids(90, 6)) second.prompt_ids.push_back(id);
  (void)read_all(*service->submit(first));
  const auto stream = service->submit(second);
  const std::vector<int32_t> answer = read_all(*stream);
  std::vector<int64_t> cuts = cuts_of(session().prefix_cuts(1340), 1250);
  const int64_t hit = cuts.empty() ? 0 : cuts.back();
  EXPECT_EQ(stream->report().cached_tokens, hit);
  EXPECT_EQ(service->statistics().prefix_hit_tokens, hit);
  EXPECT_EQ(service->statistics().prefix_asked_tokens, 1300 + 1340);
  const std::vector<int64_t> parts(hit > 0 ? 1 : 0, hit);
  EXPECT_EQ(answer, answer_alone(*other_, GetParam().config, second, parts));
}

INSTANTIATE_TEST_SUITE_P(Configurations, Prefixes, ::testing::ValuesIn(prefix_cases()), name_of_case);

class PrefixServices : public ::testing::Test {
 protected:
  // The first tokens of one text, then `more` others.
  static ServiceRequest request(int64_t tokens, int64_t more, uint32_t seed = 6) {
    ServiceRequest r{.prompt_ids = random_ids(tokens), .max_new_tokens = 5, .ignore_eos = true};
    for (const int32_t id : random_ids(more, seed)) r.prompt_ids.push_back(id);
    return r;
  }
  // Of its prompt, once it has been answered.
  static int64_t cached(Service& service, const ServiceRequest& request) {
    const auto stream = service.submit(request);
    (void)read_all(*stream);
    return stream->report().cached_tokens;
  }

  std::unique_ptr<Engine> engine_ = small_engine(), alone_ = small_engine();
};

TEST_F(PrefixServices, KeepNothingUnlessAsked) {
  const auto service = engine_->serve({.attention = full_attention()});
  EXPECT_EQ(cached(*service, request(300, 10)), 0);
  EXPECT_EQ(cached(*service, request(300, 10)), 0);
  EXPECT_EQ(service->statistics().prefix_asked_tokens, 0);
  service->wait_idle();
  EXPECT_EQ(held_by_requests(*engine_), 0);
}

TEST_F(PrefixServices, FindTheLongestThatIsThereButNeverAllOfAPrompt) {
  const auto service = engine_->serve({.attention = full_attention(), .prefix_cache_bytes = kPlenty});
  EXPECT_EQ(cached(*service, request(256, 0)), 0);
  EXPECT_EQ(cached(*service, request(256, 0)), 192) << "the last token is read";
  EXPECT_EQ(cached(*service, request(256, 1)), 256);
  EXPECT_EQ(cached(*service, request(100, 200)), 64);
  EXPECT_EQ(cached(*service, request(100, 250)), 256) << "of which the one before kept more";
  EXPECT_EQ(cached(*service, request(0, 300)), 0);
  EXPECT_EQ(cached(*service, request(40, 0)), 0);
}

TEST_F(PrefixServices, TellTenantsApart) {
  const auto service = engine_->serve({.attention = full_attention(), .prefix_cache_bytes = kPlenty});
  ServiceRequest mine = request(300, 10), theirs = request(300, 10);
  mine.cache_salt = "a";
  theirs.cache_salt = "b";
  EXPECT_EQ(cached(*service, mine), 0);
  EXPECT_EQ(cached(*service, theirs), 0);
  EXPECT_EQ(cached(*service, request(300, 10)), 0);
  EXPECT_EQ(cached(*service, theirs), 256);
}

// A request's answers share what it found, and what it leaves.
TEST_F(PrefixServices, ServeSeveralAnswersToOnePrompt) {
  const AttentionConfig method = small_shadow();
  const auto service = engine_->serve({.attention = method, .prefix_cache_bytes = kPlenty});
  EXPECT_EQ(cached(*service, request(600, 10)), 0);
  ServiceRequest asked = request(600, 700);
  const std::vector<int32_t> expected = answer_alone(*alone_, method, asked, {512});
  const auto streams = service->submit_several(asked, 3);
  for (const auto& stream : streams) {
    EXPECT_EQ(read_all(*stream), expected);
    EXPECT_EQ(stream->report().cached_tokens, 512);
  }
  service->wait_idle();
  EXPECT_EQ(service->statistics().prefix_hit_tokens, 512) << "read once";
  EXPECT_EQ(cached(*service, request(600, 700)), 1024);
}

// What is kept gives way before a request does.
TEST_F(PrefixServices, TakeOnlyWhatRequestsLeave) {
  if (kIsSanitized)
    GTEST_SKIP()
        << "it fills a memory with long prompts; histories of prompts that begin alike make room so, too";
  const AttentionConfig method = full_attention();
  EngineOptions options = small_engine_options();
  const auto probe = Engine::load(options);
  (void)answer_alone(*probe, method, request(1000, 0));
  options.device_bytes = probe->memory().peak[0] + probe->footprint(method, 1000).device / 2;
  options.host_bytes = 1 << 16;  // nothing that is kept has room there
  const auto engine = Engine::load(options);
  {
    const auto service = engine->serve({.attention = method, .prefix_cache_bytes = kPlenty});
    for (uint32_t seed = 1; seed < 6; ++seed) EXPECT_EQ(cached(*service, request(0, 1000, seed)), 0);
    const ServiceStatistics statistics = service->statistics();
    EXPECT_EQ(statistics.pauses + statistics.drops + statistics.failed, 0);
    EXPECT_EQ(cached(*service, request(0, 1000, 5)), 960) << "the latest is there";
    EXPECT_EQ(cached(*service, request(0, 1000, 1)), 0) << "the first is not";
  }
  EXPECT_EQ(held_by_requests(*engine), 0);
}

TEST_F(PrefixServices, MoveWhatIsKeptIntoHostMemoryAndBack) {
  if (kIsSanitized)
    GTEST_SKIP() << "it reads eight long prompts; histories of prompts that begin alike move them so, too";
  const AttentionConfig method = small_shadow();
  EngineOptions options = small_engine_options();
  const auto probe = Engine::load(options);
  (void)answer_alone(*probe, method, request(0, 1300, 2));
  options.device_bytes = probe->memory().peak[0] + (1 << 19);
  options.host_bytes = 1 << 28;
  const auto engine = Engine::load(options);
  const auto service = engine->serve({.attention = method, .prefix_cache_bytes = kPlenty});
  for (uint32_t seed = 1; seed < 5; ++seed) EXPECT_EQ(cached(*service, request(0, 1300, seed)), 0);
  EXPECT_GT(engine->memory().held[1], probe->footprint(method, 1024).device) << "moved down";
  for (uint32_t seed = 1; seed < 5; ++seed) {
    const ServiceRequest again = request(0, 1300, seed);
    const auto stream = service->submit(again);
    EXPECT_EQ(read_all(*stream), answer_alone(*alone_, method, again, {1024}));
    EXPECT_EQ(stream->report().cached_tokens, 1024);
  }
}

TEST_F(PrefixServices, KeepNoMoreThanTheyMay) {
  const AttentionConfig method = full_attention();
  const int64_t one = engine_->footprint(method, 512).device;
  const auto service = engine_->serve({.attention = method, .prefix_cache_bytes = 2 * one + one / 2});
  for (uint32_t seed = 1; seed < 4; ++seed) EXPECT_EQ(cached(*service, request(0, 520, seed)), 0);
  EXPECT_EQ(cached(*service, request(0, 520, 2)), 512);
  EXPECT_EQ(cached(*service, request(0, 520, 1)), 0) << "the least recently used had to go";
  EXPECT_EQ(cached(*service, request(0, 520, 2)), 512);
  EXPECT_EQ(cached(*service, request(0, 520, 3)), 0);
}

TEST_F(PrefixServices, RefuseALimitBelowNothing) {
  EXPECT_THROW((void)engine_->serve({.prefix_cache_bytes = -1}), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::testing
