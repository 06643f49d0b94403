#include "prompt.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>

#include "args.h"
#include "base/check.h"
#include "interrupt.h"

namespace shadowkv::apps {
namespace {

struct Utf8Class {
  int length = 0;                           // bytes of the character; 0: no character starts so
  unsigned char least = 0x80, most = 0xBF;  // allowed second byte
};

Utf8Class classify(unsigned char lead) {
  if (lead < 0x80) return {1};
  if (lead >= 0xC2 && lead <= 0xDF) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};  // no surrogates
  if (lead >= 0xE1 && lead <= 0xEF) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {};
}

// Bytes of the well-formed character at the start of the text; 0 when there is none.
int64_t character_length(std::string_view text) {
  const Utf8Class kind = classify(static_cast<unsigned char>(text.front()));
  if (kind.length == 0 || text.size() < static_cast<std::size_t>(kind.length)) return 0;
  for (int i = 1; i < kind.length; ++i) {
    const auto byte = static_cast<unsigned char>(text[static_cast<std::size_t>(i)]);
    const bool fits = i == 1 ? byte >= kind.least && byte <= kind.most : byte >= 0x80 && byte <= 0xBF;
    if (!fits) return 0;
  }
  return kind.length;
}

bool has(const CLI::Option* option) {
  return option != nullptr && option->count() > 0;
}

void refuse_several_sources(const PromptArguments& arguments) {
  const int sources =
      int{has(arguments.argument)} + int{has(arguments.file_option)} + int{has(arguments.ids_option)};
  require(sources <= 1,
          "the prompt is given {} times; choose one of the argument, --prompt-file and --prompt-ids",
          sources);
}

}  // namespace

bool PromptArguments::given() const {
  return has(argument) || has(file_option) || has(ids_option);
}

void add_prompt_options(CLI::App& app, PromptArguments& arguments, bool takes_ids) {
  const std::string group = "Text";
  arguments.argument = app.add_option_function<std::string>(
      "text", [&arguments](const std::string& value) { arguments.text = value; },
      "The text; - or nothing reads standard input");
  arguments.argument->option_text("TEXT [default: standard input]");
  arguments.file_option =
      add_path(app, {"-f,--prompt-file", "FILE", "Read the text from a file in UTF-8 [default: none]", group},
               arguments.file);
  if (!takes_ids) return;
  arguments.ids_option = add_text(
      app, {"--prompt-ids", "IDS", "Token ids to use in place of text, such as 1,2,3 [default: none]", group},
      arguments.ids);
}

Prompt read_prompt(const PromptArguments& arguments) {
  refuse_several_sources(arguments);
  Prompt prompt;
  if (has(arguments.ids_option)) {
    prompt.ids = parse_ids(arguments.ids, "--prompt-ids");
    require(!prompt.ids.empty(), "--prompt-ids is empty; give at least one token id, such as 1,2,3");
    return prompt;
  }
  if (has(arguments.file_option)) {
    prompt.text = read_text_file(arguments.file, "--prompt-file");
  } else if (has(arguments.argument) && arguments.text != "-") {
    prompt.text = arguments.text;
  } else {
    require(has(arguments.argument) || isatty(STDIN_FILENO) != 1,
            "no prompt is given; write it as an argument, name a file with --prompt-file, or pipe it in");
    prompt.text = read_stdin();
  }
  require(!prompt.text.empty(), "the prompt is empty; give at least one character");
  require_utf8(prompt.text, "the prompt");
  return prompt;
}

std::string read_text_file(const std::filesystem::path& path, std::string_view option) {
  std::error_code ignored;
  require(!std::filesystem::is_directory(path, ignored), "{} is a folder; give {} a file of text",
          path.string(), option);
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), "cannot read {}: {}; check {}", path.string(),
          std::generic_category().message(errno), option);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  require(!file.bad(), "reading {} failed; check {}", path.string(), option);
  return text;
}

std::string read_stdin() {
  std::string text;
  char piece[65536];
  for (;;) {
    const ssize_t got = read(STDIN_FILENO, piece, sizeof(piece));
    check_interrupted();
    if (got < 0 && errno == EINTR) continue;
    require(got >= 0, "reading standard input failed: {}", std::strerror(errno));
    if (got == 0) return text;
    text.append(piece, static_cast<std::size_t>(got));
  }
}

int64_t first_invalid_utf8(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const int64_t length = character_length(text.substr(at));
    if (length == 0) return static_cast<int64_t>(at);
    at += static_cast<std::size_t>(length);
  }
  return -1;
}

void require_utf8(std::string_view text, std::string_view source) {
  const int64_t bad = first_invalid_utf8(text);
  if (bad < 0) return;
  throw InvalidInput(fmt::format("{} is not UTF-8: byte {} is 0x{:02x}; convert it to UTF-8", source, bad,
                                 static_cast<unsigned char>(text[static_cast<std::size_t>(bad)])));
}

std::vector<int32_t> prompt_ids(const Engine& engine, const Prompt& prompt, bool chat) {
  if (!prompt.ids.empty()) return prompt.ids;
  return chat ? engine.chat_prompt(prompt.text) : engine.tokenize(prompt.text);
}

}  // namespace shadowkv::apps
