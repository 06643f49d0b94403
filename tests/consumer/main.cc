// Answers with a model of random weights, through the installed headers alone.
#include <shadowkv/shadowkv.h>

#include <iostream>

int main() {
  const auto engine = shadowkv::Engine::load({.shape = "tiny"});
  shadowkv::GenerateRequest request;
  request.prompt_ids = {1, 2, 3, 4};
  request.max_new_tokens = 2;
  const shadowkv::GenerateResult result = engine->generate(request, {});
  std::cout << "shadowkv " << shadowkv::version() << ": " << engine->model().layers << " layers, "
            << result.ids.size() << " tokens\n";
}
