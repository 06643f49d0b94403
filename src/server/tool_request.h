// "tools", "tool_choice" and "parallel_tool_calls" of a chat request, and what they ask of an answer.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "server/json_fields.h"
#include "server/tool_call_parser.h"
#include "server/tool_format.h"

namespace shadowkv {

enum class ToolChoice : uint8_t {
  none,       // the answer is text, and the model is not told of tools
  automatic,  // text or calls
  required    // calls alone
};

struct ToolRequest {
  nlohmann::ordered_json tools = nlohmann::ordered_json::array();  // as the client gave them
  std::vector<std::string> names = {};                             // of all of them
  ToolChoice choice = ToolChoice::none;
  std::optional<std::size_t> only = {};  // the one that must be called
  bool is_parallel = true;               // several calls may be made
};

inline constexpr int64_t kMostCalls = 16;  // that an answer is made to hold

// Throws ApiError naming the field.
[[nodiscard]] ToolRequest tool_request_of(const JsonFields& fields);

// A JSON schema (constraint/json_schema.h) of answers that are the calls which are required. is_opened: they
// stand behind the syntax's `open` already.
[[nodiscard]] nlohmann::ordered_json schema_of_calls(const ToolRequest& request, ToolFormat format,
                                                     bool is_opened);

}  // namespace shadowkv
