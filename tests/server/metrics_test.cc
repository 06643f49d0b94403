#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>

namespace shadowkv {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, BucketsCountWhatIsWithinThem) {
  ServiceStatistics statistics;
  for (const double seconds : {0.001, 0.03, 0.03, 3.0, 9000.0}) statistics.first_token.add(seconds);
  const std::string text = metrics_text(statistics, {}, "m");
  const std::string name = "shadowkv_time_to_first_token_seconds";
  EXPECT_THAT(text, HasSubstr(name + "_bucket{model_name=\"m\",le=\"0.01\"} 1\n"));
  EXPECT_THAT(text, HasSubstr(name + "_bucket{model_name=\"m\",le=\"0.05\"} 3\n"));
  EXPECT_THAT(text, HasSubstr(name + "_bucket{model_name=\"m\",le=\"2560\"} 4\n"));
  EXPECT_THAT(text, HasSubstr(name + "_bucket{model_name=\"m\",le=\"+Inf\"} 5\n"));
  EXPECT_THAT(text, HasSubstr(name + "_count{model_name=\"m\"} 5\n"));
}

TEST(Metrics, EndedRequestsStandUnderVllmsNamesAndLabels) {
  RequestCounter counter;
  const RequestReport report = {
      .prompt_tokens = 7, .new_tokens = 3, .waited_s = 0.5, .first_s = 1, .total_s = 2};
  for (const RequestEnd end : {RequestEnd::stop, RequestEnd::length, RequestEnd::length, RequestEnd::abort})
    counter.add(report, end);
  const std::string text = metrics_text({}, counter.counts(), "m");
  const std::string labels = "{model_name=\"m\",engine=\"0\"";
  for (const char* row : {"stop\"} 1\n", "length\"} 2\n", "abort\"} 1\n", "error\"} 0\n"})
    EXPECT_THAT(text, HasSubstr("vllm:request_success_total" + labels + ",finished_reason=\"" + row));
  const auto sums = [&](const std::string& name, const std::string& sum) {
    EXPECT_THAT(text, HasSubstr("vllm:" + name + "_sum" + labels + "} " + sum + "\n"));
    EXPECT_THAT(text, HasSubstr("vllm:" + name + "_count" + labels + "} 3\n"));
    EXPECT_THAT(text, HasSubstr("shadowkv_" + name + "_sum{model_name=\"m\"} " + sum + "\n"));
  };
  sums("e2e_request_latency_seconds", "6");
  sums("request_queue_time_seconds", "1.5");
  sums("request_prefill_time_seconds", "1.5");
  sums("request_decode_time_seconds", "3");
  sums("request_inference_time_seconds", "4.5");
  sums("request_time_per_output_token_seconds", "1.5");
  sums("request_prompt_tokens", "21");
  sums("request_generation_tokens", "9");
  const std::string lengths = "vllm:request_prompt_tokens_bucket" + labels;
  EXPECT_THAT(text, HasSubstr(lengths + ",le=\"5\"} 0\n"));
  EXPECT_THAT(text, HasSubstr(lengths + ",le=\"10\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("vllm:e2e_request_latency_seconds_bucket" + labels + ",le=\"1.5\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("vllm:e2e_request_latency_seconds_bucket" + labels + ",le=\"2\"} 3\n"));
}

TEST(Metrics, TokensOfTurnsStandInBucketsThatDouble) {
  ServiceStatistics statistics;
  for (const double tokens : {1.0, 16.5, 16384.0, 3e6}) statistics.turn_tokens.add(tokens);
  const std::string text = metrics_text(statistics, {}, "m");
  for (const std::string start : {"shadowkv_iteration_tokens_total_bucket{model_name=\"m\",le=\"",
                                  "vllm:iteration_tokens_total_bucket{model_name=\"m\",engine=\"0\",le=\""}) {
    for (const char* row : {"1\"} 1\n", "16\"} 1\n", "32\"} 2\n", "8192\"} 2\n", "16384\"} 3\n",
                            "1048576\"} 3\n", "+Inf\"} 4\n"})
      EXPECT_THAT(text, HasSubstr(start + row));
  }
  EXPECT_THAT(text, HasSubstr("shadowkv_iteration_tokens_total_sum{model_name=\"m\"} 3016401.5\n"));
}

TEST(Metrics, WhatTheCacheWasGivenStandsInLabels) {
  ServiceStatistics statistics;
  statistics.cache_tokens = 1000;
  const auto labels = [&] {
    const std::string text = metrics_text(statistics, {}, "m");
    const std::string start = "vllm:cache_config_info{model_name=\"m\",engine=\"0\",";
    const std::size_t begin = text.find(start) + start.size();
    return text.substr(begin, text.find('\n', begin) - begin);
  };
  EXPECT_EQ(labels(), R"(block_size="1",num_gpu_blocks="1000",enable_prefix_caching="False"} 1)");
  statistics.prefix_limit_bytes = 1 << 20;
  statistics.cut_tokens = 64;
  EXPECT_EQ(labels(), R"(block_size="64",num_gpu_blocks="15",enable_prefix_caching="True"} 1)");
}

// Those that dashboards, routers and load tools for vLLM ask for.
TEST(Metrics, EveryNameOfVllmIsThere) {
  const std::string text = metrics_text({}, {}, "m");
  const auto declares = [&](const std::string& name, const char* type) {
    EXPECT_THAT(text, HasSubstr("# TYPE vllm:" + name + " " + type + "\n"));
  };
  for (const char* name :
       {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info"})
    declares(name, "gauge");
  for (const char* name :
       {"prompt_tokens_total", "generation_tokens_total", "request_success_total", "num_preemptions_total",
        "prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_cached_total"})
    declares(name, "counter");
  for (const char* name :
       {"time_to_first_token_seconds", "inter_token_latency_seconds", "request_time_per_output_token_seconds",
        "e2e_request_latency_seconds", "request_queue_time_seconds", "request_prefill_time_seconds",
        "request_decode_time_seconds", "request_inference_time_seconds", "request_prompt_tokens",
        "request_generation_tokens", "iteration_tokens_total"}) {
    declares(name, "histogram");
    EXPECT_THAT(text, HasSubstr(std::string("# TYPE shadowkv_") + name + " histogram\n"));
  }
}

TEST(Metrics, EveryNameHasHelpAndTypeOnce) {
  std::istringstream lines(metrics_text({}, {}, "a \"model\"\n"));
  std::set<std::string> declared;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# TYPE ")) {
      EXPECT_TRUE(declared.insert(line.substr(7, line.find(' ', 7) - 7)).second) << line;
    } else if (!line.starts_with("#")) {
      std::string name = line.substr(0, line.find('{'));
      for (const char* end : {"_bucket", "_sum", "_count"}) {
        if (name.ends_with(end) && !declared.contains(name))
          name.resize(name.size() - std::string(end).size());
      }
      EXPECT_TRUE(declared.contains(name)) << line;
      EXPECT_THAT(line, HasSubstr(R"(model_name="a \"model\"\n")"));
    }
  }
  EXPECT_GT(declared.size(), 20);
}

}  // namespace
}  // namespace shadowkv
