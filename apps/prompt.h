// Where a command's text comes from: an argument, a file, standard input, or token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "option_library.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

struct PromptArguments {
  CLI::Option* argument = nullptr;
  CLI::Option* file_option = nullptr;
  CLI::Option* ids_option = nullptr;  // nullptr: the command takes text only
  std::string text;
  std::filesystem::path file;
  std::string ids;

  // Whether any source was named on the command line.
  [[nodiscard]] bool given() const;
};

// Text or ids, exactly one of them not empty. Text is kept to the byte, its last line end included.
struct Prompt {
  std::string text = {};
  std::vector<int32_t> ids = {};
};

// The positional TEXT ("-": standard input), --prompt-file and, where wanted, --prompt-ids.
void add_prompt_options(CLI::App& app, PromptArguments& arguments, bool takes_ids);
// Throws InvalidInput for several sources, none while standard input is a terminal, an empty prompt, text
// that is not UTF-8, or a file that cannot be read.
[[nodiscard]] Prompt read_prompt(const PromptArguments& arguments);

// The whole file, or standard input; throws InvalidInput naming it.
[[nodiscard]] std::string read_text_file(const std::filesystem::path& path, std::string_view option);
[[nodiscard]] std::string read_stdin();
// Offset of the first byte that does not belong to well-formed UTF-8; -1 when all do.
[[nodiscard]] int64_t first_invalid_utf8(std::string_view text);
// Throws InvalidInput naming `source` and the offset.
void require_utf8(std::string_view text, std::string_view source);

// Ids of the prompt; with `chat`, its text as a user's message.
[[nodiscard]] std::vector<int32_t> prompt_ids(const Engine& engine, const Prompt& prompt, bool chat);

}  // namespace shadowkv::apps
