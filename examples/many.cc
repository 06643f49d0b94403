// Answers several questions at once with the library: many MODEL.gguf "Question one?" "Question two?" ...
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "shadowkv/service.h"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: many MODEL QUESTION...\n", stderr);
    return 2;
  }
  try {
    const auto engine = shadowkv::Engine::load({.model = argv[1]});
    const auto service = engine->serve({});
    std::vector<std::unique_ptr<shadowkv::Stream>> streams;
    for (int i = 2; i < argc; ++i) {
      shadowkv::ServiceRequest request;
      request.prompt_ids = engine->chat_prompt(argv[i]);
      request.max_new_tokens = 64;
      streams.push_back(service->submit(std::move(request)));
    }
    for (std::size_t i = 0; i < streams.size(); ++i) {
      std::string answer;
      while (const auto event = streams[i]->next()) answer += event->text;
      const shadowkv::RequestReport report = streams[i]->report();
      std::printf("%s\n%s\n(first token after %.2f s, all after %.2f s)\n\n", argv[i + 2], answer.c_str(),
                  report.first_s, report.total_s);
    }
  } catch (const shadowkv::Error& error) {
    std::fprintf(stderr, "many: %s\n", error.what());
    return 1;
  }
  return 0;
}
