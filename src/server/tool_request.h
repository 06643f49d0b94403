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
  std::vector<bool> strict = {};  // whether calls that nobody requires must satisfy the schema, too
  ToolChoice choice = ToolChoice::none;
  std::optional<std::size_t> only = {};  // the one that must be called
  bool is_parallel = true;               // several calls may be made
};

inline constexpr int64_t kMostCalls = 16;  // that an answer is made to hold

// Throws ApiError naming the field.
[[nodiscard]] ToolRequest tool_request_of(const JsonFields& fields);

enum class CallPlace : uint8_t {
  alone,   // calls are the whole answer
  opened,  // and stand behind the syntax's `open` already
  in_text  // of a syntax that has an `open` and a `close`; arguments of tools that are not strict are any
           // object
};

// A JSON schema (constraint/json_schema.h) of answers with calls.
[[nodiscard]] nlohmann::ordered_json schema_of_calls(const ToolRequest& request, ToolFormat format,
                                                     CallPlace place);

}  // namespace shadowkv
