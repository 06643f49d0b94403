#include "bench_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "bench_needs.h"

namespace shadowkv::apps {
namespace {

void check_word(std::string_view option, const std::string& word, std::string_view one,
                std::string_view other) {
  require(word.empty() || word == one || word == other, "{} is \"{}\"; it must be {} or {}", option, word,
          one, other);
}

bool is_known_option(std::string_view name) {
  const auto options = list_options(AttentionConfig{});
  return std::any_of(options.begin(), options.end(),
                     [&](const AttentionOption& option) { return option.name == name; });
}

// The settings that --storage and --place mean for a method.
std::string settings_for(const AttentionConfig& config, const BenchArguments& a) {
  std::vector<std::string> settings;
  if (!a.storage.empty()) settings.push_back("values=" + a.storage);
  if (config.method == Method::shadow) {
    if (!a.storage.empty()) settings.push_back("factors=" + a.storage);
    if (!a.storage.empty() && config.index == IndexKind::landmarks && is_known_option("landmarks")) {
      settings.push_back("landmarks=" + a.storage);
    }
  }
  if (config.method != Method::full && !a.place.empty()) settings.push_back("placement=" + a.place);
  return fmt::format("{}", fmt::join(settings, ","));
}

// The item with those settings before its own, which win.
std::string spelled_out(const std::string& item, const BenchArguments& a) {
  const std::size_t colon = item.find(':');
  const std::string given = item.substr(0, colon);
  const std::string name = given == "shadow" ? a.preset : given;
  const std::string own = colon == std::string::npos ? "" : item.substr(colon + 1);
  std::string whole = own.empty() ? name : name + ":" + own;
  const std::string added = settings_for(parse_attention(whole), a);
  if (added.empty()) return whole;
  return name + ":" + added + (own.empty() ? "" : "," + own);
}

// Parts between commas, empty ones included.
std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t comma = text.find(',');
    parts.emplace_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

std::optional<double> forced_share(const std::string& text) {
  if (text == "natural") return std::nullopt;
  double share = -1;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, share);
  require(error == std::errc() && rest == end && share >= 0 && share <= 1,
          "--hit-rate is \"{}\"; it must be natural or a share in [0, 1]", text);
  return share;
}

}  // namespace

void add_methods_options(CLI::App& app, BenchArguments& a) {
  add_methods_option(app, a.methods);
  const std::string group = "Methods";
  add_text(app, {"--preset", "NAME", "What shadow in --method starts from: default or paper", group},
           a.preset);
  add_text(app,
           {"--storage", "TYPE",
            "bfloat16 or int8 for values, factors and landmarks [default: as the method has it]", group},
           a.storage);
  add_text(app,
           {"--place", "TIER",
            "Values in host memory always (host) or where there is room (spill) [default: as the method "
            "has it]",
            group},
           a.place);
}

void add_cell_options(CLI::App& app, BenchArguments& a, bool may_choose_batch) {
  add_text(app, {"--context", "TOKENS", "Tokens that sequences hold, separated by commas", ""}, a.contexts);
  add_text(app,
           {"--batch", "SEQUENCES",
            may_choose_batch ? "Sequences decoded together, separated by commas; auto: the most that fit"
                             : "Sequences decoded together, separated by commas",
            ""},
           a.batches);
}

void add_hit_rate_option(CLI::App& app, BenchArguments& a) {
  add_text(app,
           {"--hit-rate", "SHARE",
            "Force that share (0 to 1) of the choices to be found in the slot cache, after choosing has "
            "been paid for; natural: as they come. One for all methods, or one for each, separated by commas",
            ""},
           a.hit_rates);
}

void add_sampling_option(CLI::App& app, BenchArguments& a) {
  add_text(app,
           {"--sampling", "WAY",
            "How steps choose tokens: greedy; drawn (temperature, top-k, top-p); changed (besides: penalties "
            "over the context, half of the vocabulary forbidden, 5 log-probabilities)",
            ""},
           a.sampling);
}

void add_step_options(CLI::App& app, BenchArguments& a, int64_t least_warmup) {
  add_whole(app, {"--steps", "STEPS", "Timed decode steps, at least 1", ""}, {1, 1'000'000}, a.steps);
  add_whole(app, {"--warmup", "STEPS", "Decode steps before those timed", ""}, {least_warmup, 1'000'000},
            a.warmup);
}

void add_json_option(CLI::App& app, std::string& json) {
  add_text(app,
           {"--json", "FILE",
            "Write the results as JSON too; - prints JSON in place of the tables [default: none]", ""},
           json);
}

std::vector<NamedMethod> bench_methods(const BenchArguments& a) {
  check_word("--storage", a.storage, "bfloat16", "int8");
  check_word("--place", a.place, "host", "spill");
  require(
      preset(a.preset).method == Method::shadow,
      "--preset is \"{}\", which is not one of shadow's; name it in --method, and give default or paper here",
      a.preset);
  MethodsArguments spelled{{}, a.methods.fallback};
  std::vector<std::string> texts = a.methods.texts;
  if (texts.empty()) texts.push_back(a.methods.fallback);
  for (const std::string& text : texts) {
    for (const std::string& item : split_methods(text)) spelled.texts.push_back(spelled_out(item, a));
  }
  return methods_of(spelled);
}

std::vector<Cell> cells_of(const BenchArguments& a, bool may_choose_batch) {
  constexpr Range<int64_t> kBatches{1, int64_t{1} << 20};
  std::vector<int64_t> batches;
  for (const std::string& part : split_list(a.batches)) {
    const bool choose = may_choose_batch && part == "auto";
    batches.push_back(choose ? 0 : parse_whole(part, "--batch", kBatches));
  }
  std::vector<Cell> cells;
  for (const int64_t context : parse_wholes(a.contexts, "--context", {1, int64_t{1} << 32})) {
    for (const int64_t batch : batches) cells.push_back({context, batch});
  }
  return cells;
}

ForcedHits forced_hits_of(const BenchArguments& a, std::size_t methods) {
  ForcedHits forced;
  for (const std::string& part : split_list(a.hit_rates)) forced.push_back(forced_share(part));
  require(forced.size() == 1 || forced.size() == methods,
          "--hit-rate names {} rates for {} methods; give one, or one for each", forced.size(), methods);
  if (forced.size() == 1) forced.resize(methods, forced.front());
  return forced;
}

std::optional<SamplingParams> sampling_of(const BenchArguments& a, const ModelInfo& model) {
  if (a.sampling == "greedy") return std::nullopt;
  require(a.sampling == "drawn" || a.sampling == "changed",
          "--sampling is \"{}\"; it must be greedy, drawn or changed", a.sampling);
  SamplingParams params{.temperature = 0.8, .top_k = 40, .top_p = 0.95};
  if (a.sampling == "drawn") return params;
  params.repetition_penalty = 1.1;
  params.frequency_penalty = 0.1;
  params.min_tokens = model.context;  // so that what would end an answer stays forbidden
  for (int64_t id = 0; id < model.vocab_size; id += 2) params.stop_ids.push_back(static_cast<int32_t>(id));
  params.logprobs = std::min<int64_t>(5, model.vocab_size);
  return params;
}

void check_cells(const ModelInfo& model, std::span<const Cell> cells, int64_t growth) {
  for (const Cell& cell : cells) {
    require(cell.context + growth <= model.context,
            "--context {} and {} tokens to decode are over the context of {}, {}; shorten --context or "
            "--steps",
            cell.context, growth, model.name, model.context);
  }
}

// A forced choice takes one chunk of each of `candidates` ranges of the open ones, another whenever it is to
// miss. A range must hold more chunks than the slots hold selections: else a chunk whose turn comes again is
// still there.
void check_forced(std::span<const NamedMethod> methods, const ForcedHits& forced,
                  std::span<const Cell> cells) {
  for (std::size_t i = 0; i < methods.size(); ++i) {
    const NamedMethod& method = methods[i];
    if (!forced[i] || method.config.method == Method::full) continue;
    for (const Cell& cell : cells) {
      const ChunkCounts chunks = chunk_counts(method.config, cell.context);
      const auto turn = static_cast<int64_t>(method.config.slot_selections) + 1;
      require(
          turn * chunks.candidates <= chunks.open && chunks.candidates % chunks.chosen == 0,
          "--hit-rate cannot be forced for {} at {} tokens: that takes {} open chunks ({} for each of {} "
          "candidates, a multiple of the {} chosen), there are {}; lengthen --context or lower the budget",
          method.label, cell.context, turn * chunks.candidates, turn, chunks.candidates, chunks.chosen,
          chunks.open);
    }
  }
}

}  // namespace shadowkv::apps
