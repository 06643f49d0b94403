// A conversation for a chat model.
#pragma once

#include <string>

namespace shadowkv {

// What a chat prompt is made of. All texts are JSON.
struct ChatRequest {
  std::string messages;               // array of objects: "role", "content", and what else the template reads
  std::string tools = {};             // array of functions that the model may call; empty: none
  std::string variables = {};         // object of further names that the template reads; empty: none
  bool add_generation_prompt = true;  // end with the opening of the model's answer
};

}  // namespace shadowkv
