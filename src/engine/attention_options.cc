// Every field of AttentionConfig as text, in one table: its name, its help, how to print and how to read it.
#include <fmt/format.h>

#include <charconv>
#include <functional>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/suggest.h"
#include "shadowkv/attention_config.h"

namespace shadowkv {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 40;

struct KnobText {
  std::string name;
  std::string unit;
  std::string help;
};

struct Knob {
  KnobText text;
  std::function<std::string(const AttentionConfig&)> get;
  std::function<void(AttentionConfig&, std::string_view)> set;
};

template <typename T>
T parse_number(std::string_view name, std::string_view text, T least, T most) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  const bool in_range = error == std::errc() && rest == end && value >= least && value <= most;
  require(in_range, "{} = \"{}\" cannot be used; give a {} from {} to {}", name, text,
          std::is_integral_v<T> ? "whole number" : "number", least, most);
  return value;
}

// "1.6%" as 0.016; throws InvalidInput outside (0%, 100%].
double parse_percent(std::string_view name, std::string_view text) {
  const std::string_view number = text.substr(0, text.size() - 1);
  const double percent = parse_number<double>(name, number, 0.0, 100.0);
  require(percent > 0, "{} = \"{}\" cannot be used; give a share above 0% and up to 100%", name, text);
  return percent / 100.0;
}

Knob whole_knob(const KnobText& text, int64_t AttentionConfig::*field, int64_t least, int64_t most) {
  auto get = [field](const AttentionConfig& config) { return fmt::format("{}", config.*field); };
  auto set = [=](AttentionConfig& config, std::string_view value) {
    config.*field = parse_number<int64_t>(text.name, value, least, most);
  };
  return {text, get, set};
}

Knob real_knob(const KnobText& text, double AttentionConfig::*field, double least, double most) {
  auto get = [field](const AttentionConfig& config) { return fmt::format("{}", config.*field); };
  auto set = [=](AttentionConfig& config, std::string_view value) {
    config.*field = parse_number<double>(text.name, value, least, most);
  };
  return {text, get, set};
}

// words: the values of the enum in order.
template <typename Enum>
Knob word_knob(const KnobText& text, Enum AttentionConfig::*field, const std::vector<std::string>& words) {
  auto get = [=](const AttentionConfig& config) { return words[static_cast<std::size_t>(config.*field)]; };
  auto set = [=](AttentionConfig& config, std::string_view value) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (words[i] != value) continue;
      config.*field = static_cast<Enum>(i);
      return;
    }
    throw InvalidInput(unknown_name(text.name, value, words));
  };
  return {text, get, set};
}

Knob budget_knob() {
  const std::string name = "sparse-budget";
  auto get = [](const AttentionConfig& config) { return fmt::format("{}", config.sparse_budget); };
  auto set = [name](AttentionConfig& config, std::string_view text) {
    if (text.ends_with('%')) {
      config.sparse_budget_share = parse_percent(name, text);
      return;
    }
    config.sparse_budget = parse_number<int64_t>(name, text, 1, kMostTokens);
    config.sparse_budget_share = 0.0;
  };
  return {{name, "TOKENS", "Tokens each KV head attends a step, or a share of the prompt such as 1.6%"},
          get,
          set};
}

std::vector<Knob> choice_knobs() {
  using C = AttentionConfig;
  return {
      word_knob<Method>(
          {"method", "NAME",
           "full: exact attention; few chunks a step: shadow (of low-rank keys) or quest (of whole keys)"},
          &C::method, {"full", "shadow", "quest"}),
      whole_knob({"exact-below", "TOKENS", "Sequences of fewer tokens are attended exactly; 0: never"},
                 &C::exact_below, 0, kMostTokens),
      whole_knob({"dense-layers", "LAYERS", "First layers that are attended exactly whatever the length"},
                 &C::dense_layers, 0, kMostTokens),
      word_knob<IndexKind>(
          {"index", "NAME",
           "What finds shadow's chunks: sketch (sign bits of keys) or landmarks (chunk means)"},
          &C::index, {"sketch", "landmarks"}),
      whole_knob({"sketch-bits", "BITS", "Bits a key number in the sketch, 1 or 2; 0: by head size"},
                 &C::sketch_bits, 0, 2),
      whole_knob({"chunk-size", "TOKENS", "Tokens a chunk, the unit of selection and transfer, 1 to 16"},
                 &C::chunk_size, 1, 16),
      budget_knob(),
      whole_knob({"sparse-budget-per", "TOKENS",
                  "The budget counts for every so many tokens of the sequence; 0: for all of it"},
                 &C::sparse_budget_per, 0, kMostTokens),
      real_knob({"sparse-budget-share", "SHARE",
                 "Share of the sequence to attend instead of a token budget, to 1; 0: off"},
                &C::sparse_budget_share, 0.0, 1.0),
      real_knob({"rerank", "FACTOR",
                 "Candidates a chosen chunk, scored again by their rebuilt keys; 1: trust the index"},
                &C::rerank, 1.0, 16.0),
  };
}

std::vector<Knob> storage_knobs() {
  using C = AttentionConfig;
  const std::vector<std::string> types = {"automatic", "float32", "bfloat16", "int8"};
  return {
      whole_knob(
          {"rank", "NUMBERS", "Numbers a token's key factor has; 0: 5/16 of the key width, at least 160"},
          &C::rank, 0, kMostTokens),
      word_knob<StorageType>(
          {"factors", "TYPE", "Type of the key factors: automatic (int8), float32, bfloat16 or int8"},
          &C::factors, types),
      word_knob<StorageType>({"values", "TYPE",
                              "Type of the stored values: automatic (shadow: int8; else that of computing), "
                              "float32, bfloat16 or int8"},
                             &C::values, types),
      word_knob<StorageType>(
          {"landmarks", "TYPE",
           "Type of the landmarks: automatic (that of computing), float32, bfloat16 or int8"},
          &C::landmarks, types),
      whole_knob(
          {"outlier-chunks", "CHUNKS", "Chunks per KV head and segment kept whole and always attended"},
          &C::outlier_chunks, 0, kMostTokens),
      whole_knob({"local-window", "TOKENS", "Latest tokens kept whole and always attended"}, &C::local_window,
                 1, kMostTokens),
      real_knob({"slot-selections", "SELECTIONS",
                 "Size of the cache of recently used chunks, in steps' selections, from 1"},
                &C::slot_selections, 1.0, 1024.0),
      whole_knob({"segment-tokens", "TOKENS",
                  "Tokens that share one key basis, a multiple of 512; 0: the whole prompt"},
                 &C::segment_tokens, 0, kMostTokens),
      whole_knob({"segment-min-tokens", "TOKENS", "Prompt tokens that give a segment a basis of its own"},
                 &C::segment_min_tokens, 1, kMostTokens),
      whole_knob({"step-parts", "PARTS", "Parts of a batch that run side by side on a GPU; 0: as suits it"},
                 &C::step_parts, 0, 64),
      whole_knob({"micro-batches", "COUNT",
                  "Parts of a batch that go through all layers by themselves, 1 or 2; 0: as suits it"},
                 &C::micro_batches, 0, 2),
      word_knob<Placement>(
          {"placement", "NAME", "Values on the device while there is room (spill) or in host memory (host)"},
          &C::placement, {"spill", "host"}),
  };
}

const std::vector<Knob>& knobs() {
  static const std::vector<Knob> all = [] {
    std::vector<Knob> list = choice_knobs();
    for (Knob& knob : storage_knobs()) list.push_back(std::move(knob));
    return list;
  }();
  return all;
}

// Section 5.1 of the ShadowKV paper: every sequence sparse, one segment, one step's selection kept.
AttentionConfig paper_preset() {
  AttentionConfig config;
  config.exact_below = 0;
  config.index = IndexKind::landmarks;
  config.chunk_size = 8;
  config.sparse_budget = 1024;
  config.sparse_budget_per = 65536;
  config.rerank = 1.0;
  config.rank = 160;
  config.factors = StorageType::bfloat16;
  config.values = StorageType::bfloat16;
  config.outlier_chunks = 48;
  config.local_window = 32;
  config.slot_selections = 1.0;
  config.segment_tokens = 0;
  return config;
}

// Pages of 16 tokens and the first two layers dense as published (Tang et al., arXiv 2406.10774), every
// sequence sparse, the index trusted, one step's selection kept. The budget, which they vary, is that of the
// preset above.
AttentionConfig quest_preset() {
  AttentionConfig config;
  config.method = Method::quest;
  config.exact_below = 0;
  config.dense_layers = 2;
  config.chunk_size = 16;
  config.sparse_budget = 1024;
  config.rerank = 1.0;
  config.slot_selections = 1.0;
  return config;
}

}  // namespace

std::vector<std::string> preset_names() {
  return {"default", "paper", "full", "quest"};
}

AttentionConfig preset(std::string_view name) {
  AttentionConfig config;
  if (name == "default") return config;
  if (name == "paper") return paper_preset();
  if (name == "quest") return quest_preset();
  if (name == "full") {
    config.method = Method::full;
    return config;
  }
  throw InvalidInput(unknown_name("preset", name, preset_names()));
}

std::vector<AttentionOption> list_options(const AttentionConfig& config) {
  std::vector<AttentionOption> options;
  for (const Knob& knob : knobs())
    options.push_back({knob.text.name, knob.text.unit, knob.text.help, knob.get(config)});
  return options;
}

void set_option(AttentionConfig& config, std::string_view name, std::string_view value) {
  std::vector<std::string> names;
  for (const Knob& knob : knobs()) {
    if (knob.text.name == name) return knob.set(config, value);
    names.push_back(knob.text.name);
  }
  throw InvalidInput(unknown_name("attention option", name, names));
}

AttentionConfig parse_attention(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  AttentionConfig config = preset(name == "shadow" ? "default" : name);
  std::string_view items = colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
  require(colon == std::string_view::npos || !items.empty(),
          "attention \"{}\" ends in ':'; write items after it, such as {}:rank=160", text, name);
  while (!items.empty()) {
    const std::size_t comma = items.find(',');
    const std::string_view item = items.substr(0, comma);
    const std::size_t equals = item.find('=');
    require(equals != std::string_view::npos, "\"{}\" in attention \"{}\" is not of the form name=value",
            item, text);
    set_option(config, item.substr(0, equals), item.substr(equals + 1));
    items = comma == std::string_view::npos ? std::string_view() : items.substr(comma + 1);
  }
  return config;
}

}  // namespace shadowkv
