// How the model that is served hears of tools and calls them.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "server/tool_format.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv {

struct ToolStyle {
  ToolFormat format = ToolFormat::hermes;
  bool lists_tools = false;                // the chat template tells the model of the tools
  bool writes_calls = false;               // and writes the calls of earlier messages
  std::optional<int32_t> open_token = {};  // that is the syntax's `open` and left out of texts
};

// What the template itself does with a tool and a call of it. format: instead of what it shows.
[[nodiscard]] ToolStyle tool_style_of(const Engine& engine, std::optional<ToolFormat> format);

// What a template that knows no tools lacks: the tools in the system message, calls as text, results as
// messages of the user's. tools: empty where there are none.
void write_tools_into(nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                      const ToolStyle& style);

}  // namespace shadowkv
