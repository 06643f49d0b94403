#include "base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <stdexcept>
#include <vector>

namespace shadowkv {
namespace {

TEST(Parallel, EveryIndexRunsOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
      pool.for_each(count, [&](int64_t i) { ++runs[static_cast<std::size_t>(i)]; });
      for (const auto& run : runs) ASSERT_EQ(run.load(), 1) << threads << " threads, " << count << " indices";
    }
  }
}

TEST(Parallel, APoolRunsManyJobsAfterEachOther) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  for (int job = 0; job < 500; ++job) pool.for_each(10, [&](int64_t i) { sum += i; });
  EXPECT_EQ(sum.load(), 500 * 45);
}

TEST(Parallel, AnExceptionReachesTheCaller) {
  for (const int threads : {1, 4}) {
    ThreadPool pool(threads);
    const auto fail = [](int64_t i) {
      if (i == 3) throw std::runtime_error("three");
    };
    EXPECT_THROW(pool.for_each(100, fail), std::runtime_error);
    std::atomic<int> after{0};
    pool.for_each(10, [&](int64_t) { ++after; });
    EXPECT_EQ(after.load(), 10) << "the pool works on";
  }
}

TEST(Parallel, AnExceptionComesAfterTheOtherIndicesRan) {
  for (const int threads : {1, 4}) {
    ThreadPool pool(threads);
    std::atomic<int> ran{0};
    const auto fail = [&](int64_t i) {
      ++ran;
      if (i == 0) throw std::runtime_error("first");
    };
    EXPECT_THROW(pool.for_each(200, fail), std::runtime_error);
    EXPECT_EQ(ran.load(), 200) << threads << " threads";
  }
}

TEST(Parallel, ResultsDoNotDependOnTheNumberOfThreads) {
  const auto compute = [](int threads) {
    ThreadPool pool(threads);
    std::vector<double> sums(64);
    pool.for_each(64, [&](int64_t i) {
      double sum = 0;
      for (int64_t j = 1; j <= 1000; ++j)
        sum += std::sin(static_cast<double>(i * j)) / static_cast<double>(j);
      sums[static_cast<std::size_t>(i)] = sum;
    });
    return sums;
  };
  EXPECT_EQ(compute(1), compute(4));
}

TEST(Parallel, ZeroThreadsMeanOnePerCore) {
  EXPECT_GE(ThreadPool(0).threads(), 1);
}

}  // namespace
}  // namespace shadowkv
