// Answers one question with the library: ask MODEL.gguf "What is the capital of France?"
#include <cstdio>
#include <iostream>

#include "shadowkv/shadowkv.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: ask MODEL QUESTION\n", stderr);
    return 2;
  }
  try {
    const auto engine = shadowkv::Engine::load({.model = argv[1]});
    shadowkv::GenerateRequest request;
    request.prompt_ids = engine->chat_prompt(argv[2]);
    request.max_new_tokens = 64;
    const auto result = engine->generate(request, [](const shadowkv::TokenEvent& event) {
      std::cout << event.text << std::flush;
      return true;
    });
    std::cout << "\n(" << result.prompt_tokens << " prompt tokens, first after " << result.ttft_s << " s)\n";
  } catch (const shadowkv::Error& error) {
    std::fprintf(stderr, "ask: %s\n", error.what());
    return 1;
  }
  return 0;
}
