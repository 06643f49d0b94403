#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace shadowkv {
namespace {

// Seconds: from 10 ms to the hour that a long prompt may take.
constexpr std::array kBounds = {0.01, 0.025, 0.05, 0.1,  0.25, 0.5,  1.0,   2.5,   5.0,
                                10.0, 20.0,  40.0, 80.0, 160., 320., 640.0, 1280., 2560.0};

// A histogram on its way to text.
struct Buckets {
  std::span<const double> bounds;
  std::vector<int64_t> within;  // values up to each bound, those of all bounds before included
  int64_t count;                // of all values
  double sum;                   // of them
};

constexpr auto kTurnTokens = [] {
  std::array<double, TokenHistogram::kBuckets - 1> bounds{};
  for (std::size_t i = 0; i < bounds.size(); ++i) bounds[i] = static_cast<double>(int64_t{1} << i);
  return bounds;
}();

// A bucket of the service counts where all of it is within the bound.
template <typename Histogram>
Buckets buckets_within(std::span<const double> bounds, const Histogram& values) {
  Buckets buckets{.bounds = bounds, .within = {}, .count = values.count(), .sum = values.sum()};
  int64_t sum = 0;
  int bucket = 0;
  for (const double bound : bounds) {
    while (bucket < Histogram::kBuckets && Histogram::upper_bound(bucket) <= bound) {
      sum += values.in_bucket(bucket++);
    }
    buckets.within.push_back(sum);
  }
  return buckets;
}

Buckets buckets_of(const DurationHistogram& durations) {
  return buckets_within(kBounds, durations);
}

Buckets buckets_of(const TokenHistogram& tokens) {
  return buckets_within(kTurnTokens, tokens);
}

Buckets buckets_of(const BoundHistogram& values) {
  Buckets buckets{.bounds = values.bounds(), .within = {}, .count = values.count(), .sum = values.sum()};
  int64_t sum = 0;
  for (std::size_t i = 0; i < values.bounds().size(); ++i)
    buckets.within.push_back(sum += values.in_bucket(i));
  return buckets;
}

class Text {
 public:
  explicit Text(std::string_view model) : labels_(fmt::format("model_name=\"{}\"", escaped(model))) {}

  template <typename T>
  void one(std::string_view name, std::string_view type, std::string_view help, T value) {
    head(name, type, help);
    text_ += fmt::format("{}{{{}}} {}\n", name, labels_of(name), value);
  }
  // Values by one more label.
  template <typename T>
  void by(std::string_view name, std::string_view type, std::string_view help, std::string_view label,
          const std::vector<std::pair<std::string, T>>& values) {
    head(name, type, help);
    for (const auto& [key, value] : values) {
      text_ += fmt::format("{}{{{},{}=\"{}\"}} {}\n", name, labels_of(name), label, escaped(key), value);
    }
  }
  // What does not change, as labels of a 1.
  void info(std::string_view name, std::string_view help,
            const std::vector<std::pair<std::string, std::string>>& facts) {
    head(name, "gauge", help);
    std::string labels = labels_of(name);
    for (const auto& [key, value] : facts) labels += fmt::format(",{}=\"{}\"", key, escaped(value));
    text_ += fmt::format("{}{{{}}} 1\n", name, labels);
  }
  void histogram(std::string_view name, std::string_view help, const Buckets& buckets) {
    head(name, "histogram", help);
    const std::string labels = labels_of(name);
    for (std::size_t i = 0; i < buckets.bounds.size(); ++i) {
      text_ +=
          fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, buckets.bounds[i], buckets.within[i]);
    }
    text_ += fmt::format("{0}_bucket{{{1},le=\"+Inf\"}} {2}\n{0}_sum{{{1}}} {3}\n{0}_count{{{1}}} {2}\n",
                         name, labels, buckets.count, buckets.sum);
  }
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  static std::string escaped(std::string_view value) {
    std::string text;
    for (const char c : value) {
      if (c == '\\' || c == '"') text += '\\';
      text += c == '\n' ? std::string("\\n") : std::string(1, c);
    }
    return text;
  }
  // vLLM numbers its engines, and its dashboards ask for one.
  [[nodiscard]] std::string labels_of(std::string_view name) const {
    return name.starts_with("vllm:") ? labels_ + ",engine=\"0\"" : labels_;
  }
  void head(std::string_view name, std::string_view type, std::string_view help) {
    text_ += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
  }

  std::string labels_;
  std::string text_;
};

// Of both tiers, what is held of what may be.
double use_of(const EngineMemory& memory) {
  const auto budget = static_cast<double>(memory.budget[0] + memory.budget[1]);
  return budget > 0 ? static_cast<double>(memory.held[0] + memory.held[1]) / budget : 0;
}

void write_requests(Text& text, const ServiceStatistics& s) {
  text.by<int64_t>(
      "shadowkv_requests", "gauge", "Requests now, by what they are at.", "state",
      {{"waiting", s.waiting}, {"reading", s.reading}, {"running", s.running}, {"paused", s.paused}});
  text.one("shadowkv_requests_submitted_total", "counter", "Requests taken.", s.submitted);
  text.by<int64_t>("shadowkv_requests_ended_total", "counter", "Requests by how they ended.", "outcome",
                   {{"finished", s.finished}, {"cancelled", s.cancelled}, {"failed", s.failed}});
  text.by<int64_t>("shadowkv_preemptions_total", "counter", "Requests that gave way.", "kind",
                   {{"paused", s.pauses}, {"dropped", s.drops}});
}

void write_prefixes(Text& text, const ServiceStatistics& s) {
  text.one("shadowkv_prefix_asked_tokens_total", "counter", "Prompt tokens looked up among those kept.",
           s.prefix_asked_tokens);
  text.one("shadowkv_prefix_hit_tokens_total", "counter", "Of them found.", s.prefix_hit_tokens);
  text.one("shadowkv_prefix_disk_tokens_total", "counter", "Of these from files.", s.prefix_disk_tokens);
  text.one("shadowkv_prefixes", "gauge", "Prefixes kept in memory.", s.prefixes);
  text.one("shadowkv_prefix_bytes", "gauge", "Bytes kept that no request runs with, in both memories.",
           s.prefix_bytes);
  text.one("shadowkv_prefix_files", "gauge", "Prefixes kept in files.", s.prefix_files);
  text.one("shadowkv_prefix_file_bytes", "gauge", "Bytes of these files.", s.prefix_file_bytes);
  text.one("shadowkv_prefix_files_lost_total", "counter", "Files that could not be written, or read again.",
           s.prefix_files_lost);
  text.one("shadowkv_prefix_limit_bytes", "gauge", "Most that may be kept in memory.", s.prefix_limit_bytes);
  text.one("shadowkv_prefix_file_limit_bytes", "gauge", "Most that may be kept in files.",
           s.prefix_file_limit_bytes);
}

void write_work(Text& text, const ServiceStatistics& s) {
  text.one("shadowkv_prompt_tokens_total", "counter", "Prompt tokens read, or found.", s.prompt_tokens);
  text.one("shadowkv_generation_tokens_total", "counter", "Tokens answered.", s.new_tokens);
  text.one("shadowkv_decode_steps_total", "counter", "Decode steps.", s.steps);
  text.one("shadowkv_decode_step_tokens_total", "counter", "Tokens of all decode steps.", s.step_tokens);
  text.one("shadowkv_replayed_steps_total", "counter", "Of them replayed from a recording.",
           s.replayed_steps);
  text.one("shadowkv_step_recordings_total", "counter", "Recordings made of decode steps.", s.recordings);
  text.by<double>("shadowkv_busy_seconds_total", "counter", "Seconds by what they went into.", "stage",
                  {{"reading", s.reading_s},
                   {"steps", s.step_s},
                   {"moving", s.moving_s},
                   {"scheduling", s.scheduling_s}});
  text.one("shadowkv_index_seconds_total", "counter",
           "Of those of reading, in what describes keys that were read: bases, chunks, landmarks.",
           s.index_s);
}

void write_attention(Text& text, const ServiceStatistics& s) {
  text.one("shadowkv_context_tokens_total", "counter", "Tokens held, summed over sequence steps.",
           s.attention.context_tokens);
  text.one("shadowkv_attended_tokens_total", "counter", "Of them attended, a layer and head on average.",
           s.attention.attended_tokens);
  text.one("shadowkv_chosen_chunks_total", "counter", "Chunks chosen, over layers and heads.",
           s.attention.chosen_chunks);
  text.one("shadowkv_slot_hits_total", "counter", "Of them found in the slot cache.", s.attention.slot_hits);
  const LinkBytes& link = s.attention.link;
  text.by<int64_t>("shadowkv_link_bytes_total", "counter",
                   "Bytes of requests' state between the memories: read and moved_up to the device, written "
                   "and moved_down to the host.",
                   "kind",
                   {{"read", link.read},
                    {"written", link.written},
                    {"moved_up", link.moved_up},
                    {"moved_down", link.moved_down}});
}

void write_memory(Text& text, const EngineMemory& memory) {
  text.by<int64_t>("shadowkv_memory_budget_bytes", "gauge", "Bytes that may be held.", "tier",
                   {{"device", memory.budget[0]}, {"host", memory.budget[1]}});
  for (const int tier : {0, 1}) {
    std::vector<std::pair<std::string, int64_t>> held;
    held.reserve(memory.by_purpose.size());
    for (const auto& [purpose, bytes] : memory.by_purpose)
      held.emplace_back(purpose, bytes.at(static_cast<std::size_t>(tier)));
    text.by<int64_t>(tier == 0 ? "shadowkv_device_memory_bytes" : "shadowkv_host_memory_bytes", "gauge",
                     "Bytes held, by purpose.", "purpose", held);
  }
}

// Under the names of vLLM, with that prefix or the own one.
void write_histograms(Text& text, const ServiceStatistics& s, const RequestCounts& r,
                      const std::string& prefix) {
  const auto write = [&](const char* name, const char* help, const auto& histogram) {
    text.histogram(prefix + name, help, buckets_of(histogram));
  };
  write("time_to_first_token_seconds", "Seconds until the first token.", s.first_token);
  write("inter_token_latency_seconds", "Seconds between two tokens.", s.between_tokens);
  write("iteration_tokens_total", "Tokens of a turn: of prompts read, and of answers in its decode step.",
        s.turn_tokens);
  write("e2e_request_latency_seconds", "Seconds of answered requests, until the last token.", r.total_s);
  write("request_queue_time_seconds", "Of these until the prompt began to be read.", r.queue_s);
  write("request_prefill_time_seconds", "Of these from there to the first token.", r.prefill_s);
  write("request_decode_time_seconds", "Of these from the first token to the last.", r.decode_s);
  write("request_inference_time_seconds", "Of these after the queue.", r.inference_s);
  write("request_time_per_output_token_seconds", "Seconds a token after the first, a mean a request.",
        r.token_s);
  write("request_prompt_tokens", "Prompt tokens of answered requests.", r.prompt_tokens);
  write("request_generation_tokens", "Tokens of their answers.", r.new_tokens);
}

// By vLLM's labels, in Python's words. A router takes its blocks for what one server may know of prompts.
void write_cache_config(Text& text, const ServiceStatistics& s, const std::string& prefix) {
  const int64_t block = std::max<int64_t>(1, s.cut_tokens);
  text.info(prefix + "cache_config_info",
            "What the cache was given: tokens of a block, blocks of long requests that both memories hold.",
            {{"block_size", std::to_string(block)},
             {"num_gpu_blocks", std::to_string(s.cache_tokens / block)},
             {"enable_prefix_caching", s.prefix_limit_bytes > 0 ? "True" : "False"}});
}

std::vector<std::pair<std::string, int64_t>> ends_of(const RequestCounts& requests) {
  std::vector<std::pair<std::string, int64_t>> ends;
  ends.reserve(kRequestEnds);
  for (int end = 0; end < kRequestEnds; ++end) {
    ends.emplace_back(name_of(static_cast<RequestEnd>(end)),
                      requests.ended.at(static_cast<std::size_t>(end)));
  }
  return ends;
}

void write_vllm_names(Text& text, const ServiceStatistics& s, const RequestCounts& requests) {
  text.one("vllm:num_requests_running", "gauge", "Requests that answer or are being read.",
           s.running + s.reading);
  text.one("vllm:num_requests_waiting", "gauge", "Requests that wait or are paused.", s.waiting + s.paused);
  text.one("vllm:kv_cache_usage_perc", "gauge", "Share of both memories' budgets that is held, 0 to 1.",
           use_of(s.memory));
  text.one("vllm:prompt_tokens_total", "counter", "Prompt tokens read, or found.", s.prompt_tokens);
  text.one("vllm:prompt_tokens_cached_total", "counter", "Of them found.", s.prefix_hit_tokens);
  text.one("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up among those kept.",
           s.prefix_asked_tokens);
  text.one("vllm:prefix_cache_hits_total", "counter", "Of them found.", s.prefix_hit_tokens);
  text.one("vllm:generation_tokens_total", "counter", "Tokens answered.", s.new_tokens);
  text.one("vllm:num_preemptions_total", "counter", "Requests that gave way.", s.pauses + s.drops);
  text.by<int64_t>("vllm:request_success_total", "counter", "Requests by how they ended.", "finished_reason",
                   ends_of(requests));
  write_cache_config(text, s, "vllm:");
  write_histograms(text, s, requests, "vllm:");
}

}  // namespace

std::string metrics_text(const ServiceStatistics& statistics, const RequestCounts& requests,
                         std::string_view model) {
  Text text(model);
  write_requests(text, statistics);
  write_work(text, statistics);
  write_prefixes(text, statistics);
  write_attention(text, statistics);
  write_memory(text, statistics.memory);
  write_cache_config(text, statistics, "shadowkv_");
  write_histograms(text, statistics, requests, "shadowkv_");
  write_vllm_names(text, statistics, requests);
  return text.take();
}

}  // namespace shadowkv
