#include "server/call_arguments.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "formats/json.h"
#include "shadowkv/error.h"

namespace shadowkv {
namespace {

using Json = nlohmann::ordered_json;

// Of a call, so far within others that together they are no deeper than a request.
constexpr int64_t kDepth = 56;

void open_text(Json& arguments) {
  const auto& text = arguments.get_ref<const std::string&>();
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
    arguments = Json::object();
    return;
  }
  try {
    const OrderedJsonDocument spelled = parse_ordered_json(text, "arguments", {.depth = kDepth});
    if (spelled->is_object()) arguments = std::move(*spelled);
  } catch (const InvalidInput&) {  // no JSON: a template may make something of the text
  }
}

}  // namespace

void open_call_arguments(Json& message) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array()) return;
  for (Json& call : *calls) {
    if (!call.is_object()) continue;
    const auto function = call.find("function");
    Json& called = function != call.end() && function->is_object() ? *function : call;
    const auto arguments = called.find("arguments");
    if (arguments != called.end() && arguments->is_string()) open_text(*arguments);
  }
}

}  // namespace shadowkv
