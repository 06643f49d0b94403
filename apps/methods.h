// Attention methods as the command line names them.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "option_library.h"
#include "shadowkv/attention_config.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

// One method: --preset, --method and an option for every entry of list_options. A method that has a preset of
// its name begins with that, unless --preset names another.
struct AttentionArguments {
  std::string preset = "default";
  std::vector<std::pair<std::string, std::string>> changes;  // option, value
};
void add_attention_options(CLI::App& app, AttentionArguments& arguments);
[[nodiscard]] AttentionConfig attention_of(const AttentionArguments& arguments);
// As --methods would name it: "default:rank=160".
[[nodiscard]] std::string description_of(const AttentionArguments& arguments);

// Several methods to put side by side.
struct NamedMethod {
  std::string label;  // as given, unique
  AttentionConfig config;
  std::vector<std::string> notes;  // what was taken as something else
};
struct MethodsArguments {
  std::vector<std::string> texts;  // each a list
  std::string fallback;            // taken when none is given
};
void add_methods_option(CLI::App& app, MethodsArguments& arguments);

// "full,default:rank=160,chunk-size=8;paper" as three items: a comma before "name=value" belongs to the item.
[[nodiscard]] std::vector<std::string> split_methods(std::string_view text);
// Side by side nothing stays exact for being short: exact-below is 0 unless the item sets it.
[[nodiscard]] std::vector<NamedMethod> methods_of(const MethodsArguments& arguments);
// Fills in automatic values and notes as the model needs them.
void resolve_methods(const Engine& engine, std::span<NamedMethod> methods);
[[nodiscard]] std::vector<AttentionConfig> configs_of(std::span<const NamedMethod> methods);

// One line a note, on stderr. Printed once the work is done: what is refused leaves nothing but its own line.
void print_notes(std::span<const NamedMethod> methods);
void print_notes(std::string_view label, std::span<const std::string> notes);

}  // namespace shadowkv::apps
