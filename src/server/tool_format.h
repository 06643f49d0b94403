// How families of models write calls of tools.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace shadowkv {

enum class ToolFormat : uint8_t {
  hermes,   // <tool_call>{"name": "f", "arguments": {}}</tool_call>, again for more: Hermes, Qwen, SmolLM2
  llama,    // the whole answer is {"name": "f", "parameters": {}}, behind <|python_tag|> or not: Llama 3.1
  mistral,  // [TOOL_CALLS] [{"name": "f", "arguments": {}}, ...]
  glm       // the whole answer is a line with the name, then the arguments: GLM-4
};

struct ToolSyntax {
  ToolFormat format;
  std::string_view name;       // as options have it
  std::string_view open;       // what calls stand behind; empty: nothing
  std::string_view close;      // and before
  std::string_view arguments;  // what their member is called
};

inline constexpr std::array<ToolSyntax, 4> kToolSyntaxes = {{
    {ToolFormat::hermes, "hermes", "<tool_call>", "</tool_call>", "arguments"},
    {ToolFormat::llama, "llama", "<|python_tag|>", "", "parameters"},
    {ToolFormat::mistral, "mistral", "[TOOL_CALLS]", "", "arguments"},
    {ToolFormat::glm, "glm", "", "", ""},
}};

[[nodiscard]] constexpr const ToolSyntax& syntax_of(ToolFormat format) {
  return kToolSyntaxes[static_cast<std::size_t>(format)];
}
// nullopt for a name that is none.
[[nodiscard]] constexpr std::optional<ToolFormat> tool_format_of(std::string_view name) {
  for (const ToolSyntax& syntax : kToolSyntaxes) {
    if (syntax.name == name) return syntax.format;
  }
  return std::nullopt;
}

}  // namespace shadowkv
