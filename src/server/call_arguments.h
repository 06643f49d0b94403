// Arguments of tool calls in a message.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

namespace shadowkv {

// Clients send a call's arguments as a text of JSON; templates lay out objects. What is no object stays text.
// Json: nlohmann's json, or ordered_json, which keeps the order of names.
template <typename Json>
void open_call_arguments(Json& message) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array()) return;
  for (Json& call : *calls) {
    if (!call.is_object()) continue;
    const auto function = call.find("function");
    Json& called = function != call.end() && function->is_object() ? *function : call;
    const auto arguments = called.find("arguments");
    if (arguments == called.end() || !arguments->is_string()) continue;
    Json spelled = Json::parse(arguments->template get_ref<const std::string&>(), nullptr, false);
    if (spelled.is_object()) *arguments = std::move(spelled);
  }
}

}  // namespace shadowkv
