// Options as every command declares them: a unit, a default and a range, stated in --help and checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "option_library.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

inline constexpr int64_t kMostTokens = 1'000'000'000'000;

struct OptionText {
  std::string flags;  // "--rank" or "--sparse-budget,--budget"
  std::string unit;   // "TOKENS"
  std::string help;
  std::string group;  // heading in --help
};

// Bounds of a number; `open` excludes the lower one.
template <typename T>
struct Range {
  T least;
  T most;
  bool open = false;
};

// Each reads its option into `target`, whose value at the time of the call is the default that --help shows.
// A value that does not parse or lies outside throws InvalidInput with option, value and range.
CLI::Option* add_text(CLI::App& app, const OptionText& text, std::string& target);
CLI::Option* add_texts(CLI::App& app, const OptionText& text, std::vector<std::string>& target);  // repeated
CLI::Option* add_seed(CLI::App& app, const OptionText& text, uint64_t& target);  // 0 to 2^63 - 1
CLI::Option* add_path(CLI::App& app, const OptionText& text, std::filesystem::path& target);
CLI::Option* add_whole(CLI::App& app, const OptionText& text, Range<int64_t> range, int64_t& target);
CLI::Option* add_real(CLI::App& app, const OptionText& text, Range<double> range, double& target);
// fallback: the default, as help shows it.
CLI::Option* add_bytes(CLI::App& app, const OptionText& text, const std::string& fallback, int64_t& target);
// The same, 0 included; the default is the target's.
CLI::Option* add_bytes_or_none(CLI::App& app, const OptionText& text, int64_t& target);
CLI::Option* add_flag(CLI::App& app, const OptionText& text, bool& target);

// Calls use(part) for each part of a list separated by commas or blanks.
void for_each_part(std::string_view text, const std::function<void(std::string_view)>& use);
[[nodiscard]] int64_t parse_whole(std::string_view text, std::string_view option, Range<int64_t> range);
[[nodiscard]] double parse_real(std::string_view text, std::string_view option, Range<double> range);
// "1,2,3" or "1 2 3", each from 0 to 2^31 - 1.
[[nodiscard]] std::vector<int32_t> parse_ids(std::string_view text, std::string_view option);
// "1024,8192": at least one number, each inside the range.
[[nodiscard]] std::vector<int64_t> parse_wholes(std::string_view text, std::string_view option,
                                                Range<int64_t> range);

// --model, --shape, --tokenizer, --dtype, --weights, --threads, --device-memory, --host-memory,
// --weights-seed.
void add_model_options(CLI::App& app, EngineOptions& options);
// Throws InvalidInput unless exactly one of model and shape is given and the files exist. A model's name
// gives way to the path of its files, which are fetched where they are not there (named_model.h).
void check_model_options(EngineOptions& options);

// A subcommand: its options and what runs once all of them are read, or the commands that it groups.
struct Command {
  CLI::App* app = nullptr;
  std::function<void()> run;
  std::vector<Command> commands = {};
};
[[nodiscard]] CLI::App& add_subcommand(CLI::App& parent, const std::string& name, const std::string& help);
// One that takes a further command's name and has no options of its own.
[[nodiscard]] CLI::App& add_command_group(CLI::App& parent, const std::string& name, const std::string& help);
// As typed after the program's name: "generate", "bench decode".
[[nodiscard]] std::string path_of(const CLI::App& app);

// Refuses what the command line holds beside known options (suggesting the nearest), then reads --config
// FILE: lines "name = value", bare, under [command], or under [group] or [group.command]; an option given on
// the command line wins.
void finish_options(CLI::App& app);

}  // namespace shadowkv::apps
