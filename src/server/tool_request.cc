#include "server/tool_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "server/api_error.h"

namespace shadowkv {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMostTools = 128;
constexpr std::size_t kMostNameBytes = 128;

[[noreturn]] void refuse(const std::string& place, const std::string& what) {
  throw bad_request(fmt::format("{} {}", place, what), place, "invalid_value");
}

bool is_name(const std::string& name) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == ':';
  };
  return !name.empty() && name.size() <= kMostNameBytes && std::all_of(name.begin(), name.end(), is_plain);
}

std::string name_of_tool(const Json& tool, const std::string& place) {
  const JsonFields fields(tool, place + ".");
  if (fields.text("type").value_or("function") != "function")
    refuse(place + ".type", "must be \"function\"; no other tools are supported");
  const Json* given = fields.find("function");
  if (given == nullptr) refuse(place + ".function", "is missing");
  const JsonFields function(*given, place + ".function.");
  std::string name = function.text("name").value_or("");
  if (!is_name(name)) {
    refuse(place + ".function.name",
           fmt::format("must be 1 to {} letters, digits or any of _-.:", kMostNameBytes));
  }
  const Json* parameters = function.find("parameters");
  if (parameters != nullptr && !parameters->is_object())
    refuse(place + ".function.parameters", "must be a JSON schema, which is an object");
  return name;
}

bool is_strict(const Json& tool, const std::string& place) {
  return JsonFields(tool.at("function"), place + ".function.").boolean("strict").value_or(false);
}

void read_tools(const JsonFields& fields, ToolRequest& request) {
  const Json* tools = fields.find("tools");
  if (tools == nullptr) return;
  if (!tools->is_array() || tools->size() > kMostTools)
    refuse("tools", fmt::format("must be a list of at most {} functions", kMostTools));
  std::set<std::string> known;
  for (std::size_t i = 0; i < tools->size(); ++i) {
    const std::string place = fmt::format("tools[{}]", i);
    std::string name = name_of_tool((*tools)[i], place);
    if (!known.insert(name).second)
      refuse(place + ".function.name", fmt::format("= \"{}\" is another tool's name, too", name));
    request.names.push_back(std::move(name));
    request.strict.push_back(is_strict(tools->at(i), place));
  }
  request.tools = *tools;
}

void read_named_choice(const Json& choice, ToolRequest& request) {
  const JsonFields outer(choice, "tool_choice.");
  const Json* function = outer.find("function");
  if (function == nullptr) refuse("tool_choice.function", "is missing");
  const std::string name = JsonFields(*function, "tool_choice.function.").text("name").value_or("");
  const auto found = std::find(request.names.begin(), request.names.end(), name);
  if (found == request.names.end())
    refuse("tool_choice.function.name", fmt::format("= \"{}\" is none of the tools", name));
  request.only = static_cast<std::size_t>(found - request.names.begin());
  request.choice = ToolChoice::required;
}

void read_choice(const JsonFields& fields, ToolRequest& request) {
  const bool has_tools = !request.names.empty();
  request.choice = has_tools ? ToolChoice::automatic : ToolChoice::none;
  const Json* choice = fields.find("tool_choice");
  if (choice == nullptr) return;
  if (choice->is_object()) return read_named_choice(*choice, request);
  const std::string word = fields.text("tool_choice").value_or("");
  if (word == "none") {
    request.choice = ToolChoice::none;
  } else if (word == "required") {
    if (!has_tools) refuse("tool_choice", "= \"required\" is given, but no tools are");
    request.choice = ToolChoice::required;
  } else if (word != "auto") {
    refuse(
        "tool_choice",
        fmt::format("= \"{}\" is unknown; known are none, auto, required and a function's name in an object",
                    word));
  }
}

// Of a tool's arguments. Its own references start at itself.
Json arguments_schema(const Json& tool, const std::string& name, bool is_any) {
  if (is_any) return {{"type", "object"}};
  const Json& function = tool.at("function");
  const auto found = function.find("parameters");
  const bool has_some = found != function.end() && !found->is_null() && !found->empty();
  Json schema = has_some ? *found : Json{{"type", "object"}, {"properties", Json::object()}};
  if (!schema.contains("$id")) schema["$id"] = name;
  return schema;
}

Json schema_of_call(const ToolRequest& request, std::size_t i, ToolFormat format, CallPlace place) {
  const std::string& name = request.names[i];
  const bool is_any = place == CallPlace::in_text && !request.strict[i];
  Json arguments = arguments_schema(request.tools[i], name, is_any);
  if (format == ToolFormat::glm) {
    arguments["x-frame"] = {{"before", name + "\n"}};
    return arguments;
  }
  const std::string member(syntax_of(format).arguments);
  Json properties = {{"name", {{"const", name}}}};
  properties[member] = std::move(arguments);
  return {{"type", "object"},
          {"properties", std::move(properties)},
          {"required", {"name", member}},
          {"additionalProperties", false}};
}

}  // namespace

ToolRequest tool_request_of(const JsonFields& fields) {
  ToolRequest request;
  read_tools(fields, request);
  read_choice(fields, request);
  request.is_parallel = fields.boolean("parallel_tool_calls").value_or(true);
  return request;
}

Json schema_of_calls(const ToolRequest& request, ToolFormat format, CallPlace place) {
  Json calls = Json::array();
  for (std::size_t i = 0; i < request.names.size(); ++i) {
    if (!request.only || *request.only == i) calls.push_back(schema_of_call(request, i, format, place));
  }
  Json call = {{"anyOf", std::move(calls)}};
  const int64_t most = request.is_parallel && !request.only ? kMostCalls : 1;
  const ToolSyntax& syntax = syntax_of(format);
  if (place == CallPlace::in_text) {
    call["x-frame"] = {
        {"before", std::string(syntax.open)}, {"after", std::string(syntax.close)}, {"in_text", true}};
  } else if (format == ToolFormat::hermes) {
    call["x-frame"] = {{"before", fmt::format("{}\n", syntax.open)},
                       {"between", "\n"},
                       {"after", fmt::format("\n{}", syntax.close)},
                       {"most", most}};
  } else if (format == ToolFormat::mistral) {
    call = {{"type", "array"}, {"items", std::move(call)}, {"minItems", 1}, {"maxItems", most}};
    if (place == CallPlace::alone) call["x-frame"] = {{"before", fmt::format("{} ", syntax.open)}};
  }
  return call;
}

}  // namespace shadowkv
