// Turns that go on from each other.
#include <gtest/gtest.h>

#include "engine/engines.h"
#include "engine/follow_up.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

class Conversations : public ::testing::Test {
 protected:
  // The prompt of a turn: what has been said, what the answer to it was, and more.
  static std::vector<int32_t> after(std::vector<int32_t> ids, const GenerateResult& answer, int64_t more) {
    ids.insert(ids.end(), answer.ids.begin(), answer.ids.end());
    const std::vector<int32_t> said = random_ids(more, static_cast<uint32_t>(ids.size()));
    ids.insert(ids.end(), said.begin(), said.end());
    return ids;
  }
  static GenerateRequest request(const std::vector<int32_t>& ids, int64_t tokens) {
    GenerateRequest request;
    request.prompt_ids = ids;
    request.max_new_tokens = tokens;
    request.ignore_eos = true;
    return request;
  }

  std::unique_ptr<Engine> engine_ = small_engine();
};

TEST_F(Conversations, TurnsAnswerAsThoughEachWereReadWhole) {
  const auto conversation = engine_->converse(full_attention());
  std::vector<int32_t> ids = random_ids(100);
  for (int turn = 0; turn < 4; ++turn) {
    GenerateRequest asked = request(ids, 12);
    const GenerateResult found = conversation->answer(asked, {});
    asked.attention = full_attention();
    EXPECT_EQ(found.ids, engine_->generate(asked, {}).ids) << "turn " << turn;
    EXPECT_EQ(found.prompt_tokens, std::ssize(ids));
    EXPECT_EQ(found.held_tokens, turn == 0 ? 0 : std::ssize(ids) - 31)
        << "all but one of the answer and 30 more";
    EXPECT_EQ(conversation->held_tokens(), std::ssize(ids) + 11);
    EXPECT_EQ(found.statistics.decode_steps, 11) << "the new tokens are read, not stepped through";
    ids = after(ids, found, 30);
  }
}

TEST_F(Conversations, TheFirstTurnOfASparseMethodIsThatOfGenerate) {
  const auto conversation = engine_->converse(small_shadow());
  GenerateRequest asked = request(random_ids(150), 12);
  const GenerateResult found = conversation->answer(asked, {});
  asked.attention = small_shadow();
  EXPECT_EQ(found.ids, engine_->generate(asked, {}).ids);
  const GenerateResult second = conversation->answer(request(after(asked.prompt_ids, found, 20), 12), {});
  EXPECT_EQ(second.held_tokens, 161);
}

TEST_F(Conversations, ForksGoOnFromWhatIsHeldWithoutReadingIt) {
  for (const AttentionConfig& config : {full_attention(), small_shadow()}) {
    const auto alone = engine_->converse(config);
    auto first = engine_->converse(config);
    const std::vector<int32_t> ids = random_ids(300);
    EXPECT_EQ(first->fork()->held_tokens(), 0) << "of nothing";
    const GenerateResult opening = alone->answer(request(ids, 12), {});
    EXPECT_EQ(first->answer(request(ids, 12), {}).ids, opening.ids);
    const std::vector<int32_t> more = after(ids, opening, 30);
    const GenerateResult expected = alone->answer(request(more, 12), {});

    const auto fork = first->fork(), later = fork->fork();
    EXPECT_EQ(fork->ids(), first->ids());
    (void)first->answer(request(after(ids, opening, 20), 12), {});
    const GenerateResult found = fork->answer(request(more, 12), {});
    EXPECT_EQ(found.ids, expected.ids);
    EXPECT_EQ(found.held_tokens, 311);
    first.reset();
    EXPECT_EQ(later->answer(request(more, 12), {}).ids, expected.ids);
  }
}

TEST_F(Conversations, WhatDoesNotGoOnIsReadWhole) {
  const auto conversation = engine_->converse(full_attention());
  const std::vector<int32_t> ids = random_ids(100);
  const GenerateResult first = conversation->answer(request(ids, 4), {});
  EXPECT_EQ(conversation->answer(request(random_ids(100, 7), 4), {}).held_tokens, 0) << "another text";
  EXPECT_EQ(conversation->answer(request(ids, 4), {}).ids, first.ids);
  EXPECT_EQ(conversation->answer(request(ids, 4), {}).held_tokens, 0)
      << "the same: nothing is left to be taken in";
  conversation->forget();
  EXPECT_EQ(conversation->held_tokens(), 0);
  EXPECT_EQ(conversation->answer(request(ids, 4), {}).ids, first.ids);
  EXPECT_EQ(conversation->answer(request(after(ids, first, 400), 4), {}).held_tokens, 103);
}

TEST_F(Conversations, ASparseOneIsReadWholeWhereMoreIsNewThanHeld) {
  const auto conversation = engine_->converse(small_shadow());
  std::vector<int32_t> ids = random_ids(100);
  ids = after(ids, conversation->answer(request(ids, 4), {}), 102);
  GenerateRequest asked = request(ids, 12);
  EXPECT_EQ(conversation->answer(asked, {}).held_tokens, 103) << "as many as are held";
  const GenerateResult again = conversation->answer(request(random_ids(300), 4), {});
  asked = request(after(random_ids(300), again, 303), 12);
  const GenerateResult found = conversation->answer(asked, {});
  EXPECT_EQ(found.held_tokens, 0) << "304 new behind 303";
  asked.attention = small_shadow();
  EXPECT_EQ(found.ids, engine_->generate(asked, {}).ids);
}

TEST(FollowUps, TakeLeastWorkByLengthsAndSizesAlone) {
  ModelConfig model;
  model.vocab_size = 50'000;
  model.hidden = 576;
  model.layers = 30;
  model.heads = 9;
  model.kv_heads = 3;
  model.head_dim = 64;
  model.inner = 1536;
  model.tied_embeddings = true;
  AttentionConfig full, shadow;
  full.method = Method::full;
  shadow.exact_below = 2048;
  shadow.rank = 96;
  EXPECT_EQ(choose_follow_up(model, full, 44, 1), FollowUp::steps);
  EXPECT_EQ(choose_follow_up(model, full, 44, 15), FollowUp::append);
  EXPECT_EQ(choose_follow_up(model, full, 44, 1500), FollowUp::append);
  EXPECT_EQ(choose_follow_up(model, shadow, 2047, 5000), FollowUp::append) << "it is exact as yet";
  EXPECT_EQ(choose_follow_up(model, shadow, 3000, 3001), FollowUp::anew);
  EXPECT_EQ(choose_follow_up(model, shadow, 3000, 15), FollowUp::append);
  EXPECT_EQ(choose_follow_up(model, shadow, 100'000, 15), FollowUp::steps) << "rebuilding 100,000 keys";
  EXPECT_EQ(choose_follow_up(model, shadow, 100'000, 500), FollowUp::append);
  const AttentionConfig quest = preset("quest");
  EXPECT_EQ(choose_follow_up(model, quest, 100'000, 15), FollowUp::append) << "its keys are there";
  EXPECT_EQ(choose_follow_up(model, quest, 3000, 3001), FollowUp::anew);
}

TEST_F(Conversations, AnAnswerThatWasStoppedIsGoneOnFrom) {
  const auto conversation = engine_->converse(full_attention());
  std::vector<int32_t> ids = random_ids(100);
  const GenerateResult stopped =
      conversation->answer(request(ids, 50), [count = 0](const TokenEvent&) mutable { return ++count < 5; });
  EXPECT_EQ(stopped.finish, FinishReason::cancelled);
  ids = after(ids, stopped, 10);
  GenerateRequest asked = request(ids, 6);
  const GenerateResult found = conversation->answer(asked, {});
  EXPECT_EQ(found.held_tokens, 104);
  asked.attention = full_attention();
  EXPECT_EQ(found.ids, engine_->generate(asked, {}).ids);
}

TEST_F(Conversations, WhatIsThrownLeavesWhatWasTakenIn) {
  const auto conversation = engine_->converse(full_attention());
  const std::vector<int32_t> ids = random_ids(100);
  GenerateRequest asked = request(ids, 5);
  asked.prefill_progress = [](double) { throw Interrupted("stop"); };
  EXPECT_THROW((void)conversation->answer(asked, {}), Interrupted);
  EXPECT_EQ(conversation->held_tokens(), 0);
  const GenerateResult first = conversation->answer(request(ids, 5), {});
  asked = request(after(ids, first, 20), 5);
  asked.prefill_progress = [](double share) {
    if (share > 0.5) throw Interrupted("stop");
  };
  EXPECT_THROW((void)conversation->answer(asked, {}), Interrupted);
  EXPECT_EQ(conversation->held_tokens(), 104) << "all but the last of the first answer";
  asked.prefill_progress = {};
  const GenerateResult found = conversation->answer(asked, {});
  EXPECT_EQ(found.held_tokens, 104);
  asked.attention = full_attention();
  EXPECT_EQ(found.ids, engine_->generate(asked, {}).ids);
}

TEST_F(Conversations, TheContextEndsThem) {
  const auto conversation = engine_->converse(full_attention());
  const GenerateResult last = conversation->answer(request(random_ids(4090), 50), {});
  EXPECT_EQ(last.ids.size(), 6u);
  EXPECT_THROW((void)conversation->answer(request(random_ids(4096), 50), {}), InvalidInput);
}

TEST(ConversationMemory, RoomForFurtherTurnsIsGivenUpWhereItDoesNotFit) {
  EngineOptions options = small_engine_options();
  options.device_bytes = int64_t{2} << 20;
  options.host_bytes = int64_t{64} << 10;
  const auto engine = Engine::load(options);
  const auto conversation = engine->converse(full_attention());
  GenerateRequest asked;
  asked.prompt_ids = random_ids(400);
  asked.max_new_tokens = 4;
  asked.ignore_eos = true;
  EXPECT_EQ(conversation->answer(asked, {}).ids.size(), 4u);
  asked.prompt_ids = random_ids(4000);
  EXPECT_THROW((void)conversation->answer(asked, {}), OutOfMemory);
}

}  // namespace
}  // namespace shadowkv::testing
