#include "constraint/constraint.h"

#include <gmock/gmock.h>

#include <thread>

#include "constraint/tokens.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

// A token is allowed exactly when its bytes are, one after the other.
TEST(Constraint, AMaskHoldsTheTokensWhoseBytesMayFollow) {
  std::mt19937 random(1);
  const auto constraint = compile(ConstraintKind::json_object, "");
  for (int answer = 0; answer < 20; ++answer) {
    ConstraintPosition position(constraint);
    for (int step = 0; step < 40 && position.can_go_on(); ++step) {
      const std::vector<int32_t> ids = allowed(position);
      std::vector<int32_t> expected;
      for (int32_t id = 0; id < 300; ++id) {
        const std::string_view text = small_vocabulary()->text(id);
        ConstraintPosition walked = position;
        bool follows = !text.empty();
        for (const char c : text) {
          const auto byte = static_cast<unsigned char>(c);
          follows = follows && (walked.mask()[byte / 64] >> (byte % 64) & 1) != 0;
          if (follows) walked.take(byte);
        }
        if (follows) expected.push_back(id);
      }
      ASSERT_EQ(ids, expected);
      position.take(ids[random() % ids.size()]);
    }
  }
}

TEST(Constraint, ATokenThatIsNotAllowedChangesNothing) {
  const auto constraint = compile(ConstraintKind::regex, "ab");
  ConstraintPosition position(constraint);
  for (const int32_t id : {int32_t{'b'}, 299, 300, -1}) position.take(id);
  EXPECT_EQ(allowed(position), (std::vector<int32_t>{'a', 256 + 16}));
}

// Counting to 30,000 takes more states than a table has.
TEST(Constraint, StatesBeyondATableGoOnInAnother) {
  const auto constraint = compile(ConstraintKind::regex, "a{30000}");
  ConstraintPosition position(constraint);
  for (int i = 0; i < 30'000; ++i) {
    ASSERT_TRUE((position.mask()['a' / 64] >> ('a' % 64) & 1) != 0) << i;
    ASSERT_FALSE(position.is_complete()) << i;
    position.take('a');
  }
  EXPECT_TRUE(position.is_complete());
  EXPECT_FALSE(position.can_go_on());
  EXPECT_TRUE(takes(constraint, std::string(30'000, 'a'))) << "a position from the start";
}

TEST(Constraint, BytesThatAreNoTokensAreNotUsed) {
  std::vector<std::string> texts = {"a", "b", "ab", "c!"};
  const auto few = std::make_shared<const Vocabulary>(texts);
  const auto constraint = std::make_shared<const Constraint>(ConstraintKind::regex, "[abc]!?", few);
  ConstraintPosition position(constraint);
  EXPECT_EQ(position.mask()[0], 0b0011u) << "nothing could follow c but !, which is no token";
  EXPECT_THROW((void)Constraint(ConstraintKind::regex, "x", few), InvalidInput);
}

TEST(Constraint, WhatTakesTooLongIsRefusedWhenItDoes) {
  const auto constraint = compile(ConstraintKind::regex, "(a|b)*a(a|b){3000}");
  ConstraintPosition position(constraint);
  const auto go_on = [&] {
    for (int i = 0; i < 5'000; ++i) {
      (void)position.mask();
      position.take('a');
    }
  };
  EXPECT_THROW(go_on(), InvalidInput);
}

TEST(Constraint, ThreadsShareOne) {
  const auto constraint = compile(ConstraintKind::json_object, "");
  std::vector<std::string> answers(4);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(static_cast<uint32_t>(i));
      for (int n = 0; n < 20; ++n) answers[i] += random_answer(constraint, random);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < 4; ++i) {
    std::mt19937 random(static_cast<uint32_t>(i));
    std::string alone;
    const auto own = compile(ConstraintKind::json_object, "");
    for (int n = 0; n < 20; ++n) alone += random_answer(own, random);
    EXPECT_EQ(answers[i], alone);
  }
}

}  // namespace
}  // namespace shadowkv::testing
