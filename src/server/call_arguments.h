// Arguments of tool calls in a message.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace shadowkv {

// Clients send a call's arguments as a text of JSON; templates lay out objects, whose names keep their order.
// A text without characters is an object without names; what else is no object, or is nested deeper than
// requests may be, stays text.
void open_call_arguments(nlohmann::ordered_json& message);

}  // namespace shadowkv
