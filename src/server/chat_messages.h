// The "messages" of a chat request, in the form that chat templates read.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace shadowkv {

// Contents in parts become one text, arguments of tool calls become objects, "developer" becomes "system".
// Throws ApiError naming the place for what is no list of messages and for parts that are no text.
[[nodiscard]] nlohmann::ordered_json chat_messages_of(const nlohmann::ordered_json& messages);

}  // namespace shadowkv
