#include "server/request_counts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <thread>

namespace shadowkv {
namespace {

RequestReport report_of(int64_t new_tokens) {
  return {.ended = true,
          .prompt_tokens = 100,
          .new_tokens = new_tokens,
          .waited_s = 1,
          .first_s = 3,
          .total_s = 11};
}

TEST(BoundHistogram, AValueAtABoundIsWithinIt) {
  constexpr std::array kBounds = {1.0, 2.0};
  BoundHistogram values(kBounds);
  for (const double value : {0.0, 1.0, 1.5, 2.0, 2.5, 9.0}) values.add(value);
  EXPECT_EQ(values.in_bucket(0), 2);
  EXPECT_EQ(values.in_bucket(1), 2);
  EXPECT_EQ(values.in_bucket(2), 2);
  EXPECT_EQ(values.count(), 6);
  EXPECT_EQ(values.sum(), 16);
}

TEST(RequestCounts, BoundsRise) {
  const RequestCounts none;
  for (const BoundHistogram* histogram : {&none.total_s, &none.token_s, &none.new_tokens}) {
    const auto bounds = histogram->bounds();
    EXPECT_TRUE(std::is_sorted(bounds.begin(), bounds.end(), std::less_equal<>()));
  }
  EXPECT_EQ(none.total_s.bounds().back(), 7680);
}

TEST(RequestCounter, ARequestsTimeIsTheSumOfItsParts) {
  RequestCounter counter;
  counter.add(report_of(5), RequestEnd::stop);
  const RequestCounts counts = counter.counts();
  EXPECT_EQ(counts.queue_s.sum(), 1);
  EXPECT_EQ(counts.prefill_s.sum(), 2);
  EXPECT_EQ(counts.decode_s.sum(), 8);
  EXPECT_EQ(counts.inference_s.sum(), 10);
  EXPECT_EQ(counts.total_s.sum(), 11);
  EXPECT_EQ(counts.token_s.sum(), 2) << "four follow the first in eight seconds";
  EXPECT_EQ(counts.prompt_tokens.sum(), 100);
  EXPECT_EQ(counts.new_tokens.sum(), 5);
}

TEST(RequestCounter, AnAnswerOfOneTokenHasNoTimeBetweenTokens) {
  RequestCounter counter;
  counter.add(report_of(1), RequestEnd::length);
  EXPECT_EQ(counter.counts().token_s.count(), 0);
  EXPECT_EQ(counter.counts().decode_s.count(), 1);
}

TEST(RequestCounter, WhatWasNotAnsweredIsCountedWithoutItsTimes) {
  RequestCounter counter;
  counter.add(report_of(5), RequestEnd::abort);
  counter.add(report_of(5), RequestEnd::error);
  const RequestCounts counts = counter.counts();
  EXPECT_EQ(counts.ended, (std::array<int64_t, kRequestEnds>{0, 0, 1, 1}));
  EXPECT_EQ(counts.total_s.count(), 0);
  EXPECT_EQ(counts.new_tokens.count(), 0);
}

TEST(RequestCounter, NothingIsLostBetweenThreads) {
  constexpr int64_t kThreads = 4;
  constexpr int64_t kEach = 2000;
  RequestCounter counter;
  {
    std::vector<std::jthread> threads;
    for (int64_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        for (int64_t k = 0; k < kEach; ++k) counter.add(report_of(2), RequestEnd::length);
      });
    }
    while (counter.counts().total_s.count() < kEach) std::this_thread::yield();
  }
  const RequestCounts counts = counter.counts();
  EXPECT_EQ(counts.ended[1], kThreads * kEach);
  EXPECT_EQ(counts.total_s.count(), kThreads * kEach);
  EXPECT_EQ(counts.new_tokens.sum(), 2 * kThreads * kEach);
}

TEST(RequestEnd, HasVllmsWords) {
  EXPECT_EQ(name_of(request_end_of(FinishReason::stop)), "stop");
  EXPECT_EQ(name_of(request_end_of(FinishReason::length)), "length");
  EXPECT_EQ(name_of(request_end_of(FinishReason::cancelled)), "abort");
  EXPECT_EQ(name_of(RequestEnd::error), "error");
}

}  // namespace
}  // namespace shadowkv
