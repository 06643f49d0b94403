// What the kinds of bench share on the command line.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "args.h"
#include "methods.h"

namespace shadowkv::apps {

struct BenchArguments {
  EngineOptions engine;
  MethodsArguments methods{{}, "full,shadow"};
  std::string preset = "default";  // that `shadow` stands for
  std::string storage;  // bfloat16 or int8, of everything that can be stored so; empty: the preset's
  std::string place;    // host or spill, of values; empty: the preset's
  std::string contexts = "1024,4096";
  std::string batches = "1";
  std::string hit_rates = "natural";
  std::string sampling = "greedy";
  int64_t steps = 16;
  int64_t warmup = 4;
  std::string json;
};

// Tokens held, and sequences decoded together; batch 0: the most that fit.
struct Cell {
  int64_t context = 0, batch = 0;
};

void add_methods_options(CLI::App& app, BenchArguments& a);  // --method, --preset, --storage, --place
void add_cell_options(CLI::App& app, BenchArguments& a, bool may_choose_batch);  // --context, --batch
void add_hit_rate_option(CLI::App& app, BenchArguments& a);
void add_sampling_option(CLI::App& app, BenchArguments& a);
void add_step_options(CLI::App& app, BenchArguments& a, int64_t least_warmup);  // --steps, --warmup
void add_json_option(CLI::App& app, std::string& json);

// The methods with --preset, --storage and --place written into them, so that a label says all of it:
// "shadow" with the preset paper and int8 is "paper:values=int8,factors=int8".
[[nodiscard]] std::vector<NamedMethod> bench_methods(const BenchArguments& a);
// Every context with every batch; `may_choose_batch` allows auto.
[[nodiscard]] std::vector<Cell> cells_of(const BenchArguments& a, bool may_choose_batch);
// Of each method; none: natural.
using ForcedHits = std::vector<std::optional<double>>;
[[nodiscard]] ForcedHits forced_hits_of(const BenchArguments& a, std::size_t methods);

// How steps choose their tokens; none: the likeliest.
[[nodiscard]] std::optional<SamplingParams> sampling_of(const BenchArguments& a, const ModelInfo& model);

// Throws InvalidInput where a cell's sequences could not grow by `growth` tokens within the model's context,
// or where a forced choice has too few chunks to choose from.
void check_cells(const ModelInfo& model, std::span<const Cell> cells, int64_t growth);
void check_forced(std::span<const NamedMethod> methods, const ForcedHits& forced,
                  std::span<const Cell> cells);

}  // namespace shadowkv::apps
