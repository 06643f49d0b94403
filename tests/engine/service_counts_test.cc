// What a service counts of its turns, and says that it has been given.
#include <gtest/gtest.h>

#include "engine/engines.h"
#include "engine/requests.h"
#include "shadowkv/service.h"

namespace shadowkv::testing {
namespace {

class ServiceCounts : public ::testing::Test {
 protected:
  static ServiceRequest request(int64_t prompt, int64_t more) {
    return {.prompt_ids = random_ids(prompt), .max_new_tokens = more, .ignore_eos = true};
  }
  std::unique_ptr<Engine> engine_ = small_engine();
};

// The prompt in one turn, since nobody waits for a step; each token behind the first in one of its own.
TEST_F(ServiceCounts, CountTheTokensOfTheirTurns) {
  for (const AttentionConfig& method : {full_attention(), small_shadow()}) {
    const auto service = engine_->serve({.attention = method});
    (void)read_all(*service->submit(request(900, 5)));
    service->wait_idle();
    const ServiceStatistics now = service->statistics();
    EXPECT_EQ(now.turn_tokens.count(), 1 + 4);
    EXPECT_EQ(now.turn_tokens.sum(), 900 + 4);
    EXPECT_EQ(now.turn_tokens.in_bucket(0), 4);
    EXPECT_EQ(now.turn_tokens.in_bucket(10), 1) << "from 513 to 1,024";
  }
}

TEST_F(ServiceCounts, CountTheTokensOfTurnsThatReadBesideTheirSteps) {
  const auto service = engine_->serve({.attention = small_shadow(), .max_gap = 1.1});
  std::unique_ptr<Stream> beside;
  ServiceRequest first = request(30, 200);
  first.on_news = [&] {
    if (!beside) beside = service->submit(request(900, 1));
  };
  (void)read_all(*service->submit(first));
  service->wait_idle();
  const ServiceStatistics now = service->statistics();
  EXPECT_NEAR(now.turn_tokens.sum(), 30 + 900 + 199, 1e-6);
  EXPECT_GE(now.turn_tokens.count(), 200);
}

TEST_F(ServiceCounts, BookWhatDescribesKeysAsAPartOfReading) {
  const auto service = engine_->serve({.attention = small_shadow()});
  (void)read_all(*service->submit(request(900, 1)));
  service->wait_idle();
  const ServiceStatistics now = service->statistics();
  EXPECT_GT(now.index_s, 0);
  EXPECT_LT(now.index_s, now.reading_s);
}

TEST_F(ServiceCounts, SayWhatTheyHaveBeenGiven) {
  EngineOptions options = small_engine_options();
  options.device_bytes = options.host_bytes = 64 << 20;
  const auto engine = Engine::load(options);
  const auto tokens = [&](const AttentionConfig& method, int64_t cut) {
    const auto service = engine->serve({.attention = method, .prefix_cache_bytes = 5000});
    const ServiceStatistics now = service->statistics();
    EXPECT_EQ(now.prefix_limit_bytes, 5000);
    EXPECT_EQ(now.prefix_file_limit_bytes, 0);
    EXPECT_EQ(now.cut_tokens, cut);
    const SequenceFootprint one = engine->footprint(method, engine->model().context);
    EXPECT_LE(now.cache_tokens / engine->model().context * one.device, options.device_bytes);
    return now.cache_tokens;
  };
  const int64_t full = tokens(full_attention(), 64);
  EXPECT_GT(full, engine->model().context);
  EXPECT_GT(tokens(small_shadow(), 512), 0) << "its segments, of prompts of any length";
  EXPECT_EQ(engine->serve({.attention = full_attention()})->statistics().cut_tokens, 0);
}

}  // namespace
}  // namespace shadowkv::testing
