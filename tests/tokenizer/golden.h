// What another implementation gave for the same tokenizer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv::testing {

[[nodiscard]] std::filesystem::path golden_path(std::string_view name);
// One value a line.
[[nodiscard]] std::vector<nlohmann::json> read_lines(std::string_view name);

// Expect the ids (with special tokens and without) and texts of NAME.encode.jsonl and NAME.decode.jsonl.
void expect_golden_ids(const Tokenizer& tokenizer, const std::string& name);
void expect_golden_texts(const std::shared_ptr<const Tokenizer>& tokenizer, const std::string& name);

// Expects the prompts of embedded.chat.jsonl, which the embedded model's own template wrote, of our ChatML
// and, where it is given, of the template itself.
void expect_golden_chats(const Tokenizer& tokenizer, const ChatTemplate* chat_template = nullptr);

}  // namespace shadowkv::testing
