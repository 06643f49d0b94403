// Chat templates: what they make of a conversation, and the marks of what the conversation gave.
#include "base/utf8.h"
#include "fuzz/fuzz.h"
#include "template/template.h"

namespace shadowkv::testing {
namespace {

// A character that no template comes to write by itself.
constexpr std::string_view kGiven = "\u2603";
constexpr std::string_view kMessages = R"([{"role": "system", "content": "Be \u2603 brief. "},
  {"role": "user", "content": [{"type": "text", "text": " \u2603\n"}, {"type": "image", "\u2603": 1.5}]},
  {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": [1, null]}}}]},
  {"role": "tool", "content": "\u2603<think>x</think>", "tool_call_id": "c1"}, {"role": "user", "content": "Hi, \u2603"}])";
constexpr std::string_view kTools =
    R"([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x\u2603": true}}}])";

// Small enough for 2 s under the sanitizers, whatever a step does.
constexpr jinja::Limits kLimits = {.steps = 40'000, .bytes = int64_t{8} << 20, .depth = 200};

jinja::Text render(std::string_view source) {
  jinja::Budget budget(kLimits);
  return jinja::Template(source, "seed")
      .render({{"messages", jinja::value_of_json(kMessages, "messages", budget)},
               {"tools", jinja::value_of_json(kTools, "tools", budget)},
               {"add_generation_prompt", true},
               {"bos_token", jinja::Value::text("<s>")}},
              budget);
}

void expect(bool law, const char* name) {
  if (law) return;
  std::fprintf(stderr, "broken: %s\n", name);
  std::abort();
}

void check(const jinja::Text& text, bool may_write) {
  expect(!find_invalid_utf8(text.bytes), "a text is UTF-8");
  expect(text.marks.empty() || text.marks.size() == text.bytes.size(), "a text has a mark for each byte");
  for (std::size_t at = text.bytes.find(kGiven); at != std::string::npos && !may_write;
       at = text.bytes.find(kGiven, at + 1))
    expect(!text.marks.empty() && text.marks.substr(at, kGiven.size()) == std::string(kGiven.size(), '\1'),
           "what was given is marked");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view source = text_of(data, size);
  // As itself, as an escape, or as a number in a format.
  const auto has = [&](std::string_view part) { return source.find(part) != std::string_view::npos; };
  const bool may_write = has(kGiven) || has("\\") || has("9731");
  take_or_refuse([&] { check(render(source), may_write); });
  return 0;
}

}  // namespace shadowkv::testing
