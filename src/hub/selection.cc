#include "hub/selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

using Names = std::vector<std::string>;

constexpr std::string_view kIndex = "model.safetensors.index.json", kWeights = "model.safetensors";

// Beside the weights; what a repository lacks of them is done without.
constexpr std::array<std::string_view, 11> kBeside = {
    "config.json",       "generation_config.json",  "tokenizer.json",    "tokenizer_config.json",
    "tokenizer.model",   "special_tokens_map.json", "vocab.json",        "merges.txt",
    "added_tokens.json", "chat_template.jinja",     "chat_template.json"};

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

bool contains(std::span<const std::string> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// One of several files of a model: "-00001-of-00003.gguf".
bool is_split(std::string_view name) {
  return name.find("-of-0") != name.npos;
}

// The GGUF files that hold a language model; those of image encoders are called mmproj.
Names gguf_files(std::span<const std::string> names) {
  Names found;
  for (const std::string& name : names) {
    const std::string small = lower(name);
    if (small.ends_with(".gguf") && small.find("mmproj") == small.npos) found.push_back(name);
  }
  return found;
}

// `part` stands in the name, and neither before nor after it does the word go on: "Q8_0" in "m-q8_0.gguf",
// "Q4_K" not in "m-Q4_K_M.gguf".
bool has_word(std::string_view name, std::string_view part) {
  const auto ends_word = [](char c) { return c == '-' || c == '.' || c == '/'; };
  const std::string text = lower(name), word = lower(part);
  for (std::size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    if ((at == 0 || ends_word(text[at - 1])) && (end == text.size() || ends_word(text[end]))) return true;
  }
  return false;
}

Names with_word(const Names& files, std::string_view word) {
  Names found;
  std::copy_if(files.begin(), files.end(), std::back_inserter(found),
               [word](const std::string& name) { return has_word(name, word); });
  return found;
}

// A list for a message.
std::string shown(const Names& files) {
  constexpr std::size_t kMost = 12;
  Names first(files.begin(), files.begin() + static_cast<std::ptrdiff_t>(std::min(files.size(), kMost)));
  for (std::string& name : first) name = printable(name);
  const std::string rest = files.size() > kMost ? fmt::format(" and {} more", files.size() - kMost) : "";
  return fmt::format("{}{}", fmt::join(first, ", "), rest);
}

Selection whole_gguf(const std::string& name, const std::string& place) {
  require(!is_split(name),
          "{} of {} is one of several parts, which this program does not read; choose a whole file",
          printable(name), place);
  return {name, {name}, {}};
}

Selection named_gguf(std::span<const std::string> names, const HubModel& model, const std::string& place) {
  const Names files = gguf_files(names);
  require(!files.empty(), "{} has no GGUF file, but {} was asked for; leave \":{}\" out", place,
          in_quotes(model.file), printable(model.file));
  if (contains(files, model.file)) return whole_gguf(model.file, place);
  const Names fitting = with_word(files, model.file);
  require(!fitting.empty(), "{} has no GGUF file {}; it has {}", place, in_quotes(model.file), shown(files));
  require(fitting.size() == 1, "{} has {} GGUF files for {}: {}; name one as {}:FILE", place, fitting.size(),
          in_quotes(model.file), shown(fitting), model.repository);
  return whole_gguf(fitting.front(), place);
}

Selection usual_gguf(const Names& files, const HubModel& model, const std::string& place) {
  if (files.size() == 1) return whole_gguf(files.front(), place);
  for (const std::string_view type : {"Q4_K_M", "Q8_0"}) {
    const Names fitting = with_word(files, type);
    if (fitting.size() == 1 && !is_split(fitting.front())) return whole_gguf(fitting.front(), place);
  }
  throw InvalidInput(fmt::format("{} has {} GGUF files: {}; name one as {}:FILE", place, files.size(),
                                 shown(files), model.repository));
}

Selection safetensors_folder(std::span<const std::string> names) {
  Selection selection;
  for (const std::string& name : names) {
    const bool ranks = name.ends_with(".tiktoken") && name.find('/') == name.npos;
    if (ranks || std::find(kBeside.begin(), kBeside.end(), name) != kBeside.end())
      selection.files.insert(name);
  }
  if (contains(names, kIndex)) selection.index = kIndex;
  selection.files.emplace(contains(names, kIndex) ? kIndex : kWeights);
  return selection;
}

}  // namespace

Selection select_files(std::span<const std::string> names, const HubModel& model, const std::string& place) {
  if (!model.file.empty()) return named_gguf(names, model, place);
  if (contains(names, "config.json") && (contains(names, kWeights) || contains(names, kIndex))) {
    return safetensors_folder(names);
  }
  const Names files = gguf_files(names);
  require(
      !files.empty(),
      "{} has no model that this program reads, which is config.json with model.safetensors or its index, or "
      "a .gguf file",
      place);
  return usual_gguf(files, model, place);
}

}  // namespace shadowkv
