#include "methods.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>

#include "base/check.h"

namespace shadowkv::apps {
namespace {

constexpr std::string_view kDefault = "default";

std::string flags_of(const std::string& name) {
  return name == "sparse-budget" ? "--sparse-budget,--budget" : "--" + name;
}

// The preset to start from: without one, that of the method where it has one of its own.
std::string start_of(const AttentionArguments& arguments) {
  const std::vector<std::string> names = preset_names();
  std::string start = arguments.preset;
  for (const auto& [name, value] : arguments.changes) {
    const bool is_known = std::find(names.begin(), names.end(), value) != names.end();
    if (name == "method" && is_known && arguments.preset == kDefault) start = value;
  }
  return start;
}

// The item with exact-below=0 as its first setting, so that a later one wins.
AttentionConfig parse_side_by_side(const std::string& item) {
  const std::size_t colon = item.find(':');
  if (colon == std::string::npos) return parse_attention(item + ":exact-below=0");
  return parse_attention(item.substr(0, colon + 1) + "exact-below=0," + item.substr(colon + 1));
}

}  // namespace

void add_attention_options(CLI::App& app, AttentionArguments& arguments) {
  const std::string group = "Attention";
  app.add_option_function<std::string>(
         "--preset", [&arguments](const std::string& name) { arguments.preset = name; },
         fmt::format("Settings to start from: {}; the options below change them",
                     fmt::join(preset_names(), ", ")))
      ->option_text("NAME [default: default]")
      ->type_name("NAME")
      ->group(group);
  for (const AttentionOption& option : list_options(AttentionConfig{})) {
    app.add_option_function<std::string>(
           flags_of(option.name),
           [&arguments, name = option.name](const std::string& value) {
             arguments.changes.emplace_back(name, value);
           },
           option.help)
        ->option_text(fmt::format("{} [default: {}]", option.unit, option.value))
        ->type_name(option.unit)
        ->group(group);
  }
}

AttentionConfig attention_of(const AttentionArguments& arguments) {
  AttentionConfig config = preset(start_of(arguments));
  for (const auto& [name, value] : arguments.changes) {
    try {
      set_option(config, name, value);
    } catch (const InvalidInput& error) {
      const std::string_view message = error.what();  // begins with the name unless it is about a word
      throw InvalidInput(fmt::format("--{}{}", message.starts_with(name) ? "" : name + ": ", message));
    }
  }
  return config;
}

std::string description_of(const AttentionArguments& arguments) {
  std::string text = start_of(arguments);
  for (const auto& [name, value] : arguments.changes)
    text += fmt::format("{}{}={}", text.find(':') == std::string::npos ? ":" : ",", name, value);
  return text;
}

void add_methods_option(CLI::App& app, MethodsArguments& arguments) {
  app.add_option_function<std::vector<std::string>>(
         "--methods,--method",
         [&arguments](const std::vector<std::string>& texts) { arguments.texts = texts; },
         "Methods to put side by side: full, shadow, paper, quest, or a preset with settings such as "
         "default:rank=160,chunk-size=8; separated by ; or , or given repeatedly. exact-below is 0 unless "
         "set")
      ->option_text(fmt::format("LIST [default: {}]", arguments.fallback))
      ->allow_extra_args(false);
}

std::vector<std::string> split_methods(std::string_view text) {
  std::vector<std::string> items;
  bool continues = false;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of(",;"), text.size());
    const std::string_view part = text.substr(0, end);
    const std::size_t equals = part.find('=');
    const bool setting = equals != std::string_view::npos && part.find(':') > equals;
    if (continues && setting && !items.empty()) {
      items.back() += (items.back().find(':') == std::string::npos ? ":" : ",") + std::string(part);
    } else if (!part.empty()) {
      items.emplace_back(part);
    }
    continues = end < text.size() && text[end] == ',';
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return items;
}

std::vector<NamedMethod> methods_of(const MethodsArguments& arguments) {
  std::vector<std::string> texts = arguments.texts;
  if (texts.empty()) texts.push_back(arguments.fallback);
  std::vector<NamedMethod> methods;
  for (const std::string& text : texts) {
    for (const std::string& item : split_methods(text)) {
      const auto same = [&](const NamedMethod& method) { return method.label == item; };
      require(std::none_of(methods.begin(), methods.end(), same), "--methods names \"{}\" twice; keep one",
              item);
      methods.push_back({item, parse_side_by_side(item), {}});
    }
  }
  require(!methods.empty(), "--methods is empty; name at least one, such as full,shadow,paper");
  return methods;
}

void resolve_methods(const Engine& engine, std::span<NamedMethod> methods) {
  for (NamedMethod& method : methods) {
    ResolvedAttention resolved = engine.resolve(method.config);
    method.config = resolved.config;
    method.notes = std::move(resolved.notes);
  }
}

std::vector<AttentionConfig> configs_of(std::span<const NamedMethod> methods) {
  std::vector<AttentionConfig> configs;
  for (const NamedMethod& method : methods) configs.push_back(method.config);
  return configs;
}

void print_notes(std::span<const NamedMethod> methods) {
  for (const NamedMethod& method : methods) print_notes(method.label, method.notes);
}

void print_notes(std::string_view label, std::span<const std::string> notes) {
  for (const std::string& note : notes) std::cerr << fmt::format("shadowkv: note: {}: {}\n", label, note);
}

}  // namespace shadowkv::apps
