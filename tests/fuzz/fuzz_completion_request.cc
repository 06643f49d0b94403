// Bodies of chat and completion requests, and answers that may hold calls of tools. The first byte says
// which, and of which style the model is.
#include <nlohmann/json.hpp>

#include "constraint/constraint.h"
#include "formats/json.h"
#include "fuzz/fuzz.h"
#include "server/api_error.h"
#include "server/completion_request.h"
#include "server/fake_engine.h"

namespace shadowkv::testing {
namespace {

void expect(bool law, const char* name) {
  if (law) return;
  std::fprintf(stderr, "broken: %s\n", name);
  std::abort();
}

ToolFormat format_of(uint8_t choice) {
  return kToolSyntaxes[choice % kToolSyntaxes.size()].format;
}

std::shared_ptr<const Vocabulary> every_byte() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
  return std::make_shared<const Vocabulary>(std::move(texts));
}

// What is taken can be asked of an engine; what is refused says so in one JSON object.
void read_request(std::string_view body, uint8_t choice) {
  static const FakeEngine engine;
  static const auto vocabulary = every_byte();
  static const std::string name = "m";
  ToolStyle style{
      .format = format_of(choice >> 1), .lists_tools = (choice & 8) != 0, .writes_calls = (choice & 16) != 0};
  if ((choice & 32) != 0) style.open_token = FakeEngine::kHidden;
  const ServedModel model{engine, name, style};
  try {
    const OrderedJsonDocument json = parse_ordered_json(body, "the request's body");
    const CompletionRequest request =
        (choice & 1) != 0 ? chat_request_of(*json, model, {}) : completion_request_of(*json, model, {});
    expect(!request.prompts.empty() && request.choices >= 1 && request.max_new_tokens >= 1, "a request asks");
    expect(request.best_of >= request.choices && !(request.stream && request.best_of > request.choices),
           "what is shown was made, and streamed only where nothing is left out");
    const SamplingParams& sampling = request.sampling;
    if (!sampling.json_schema.empty())
      (void)Constraint(ConstraintKind::json_schema, sampling.json_schema, vocabulary);
  } catch (const ApiError& error) {
    expect(error.status == 400 || error.status == 404, "a refusal is the client's affair");
    expect(nlohmann::json::parse(to_json_text(error)).at("error").is_object(), "a refusal is an object");
  }
}

struct Heard {
  std::string text;
  std::vector<std::pair<std::string, std::string>> calls;
  bool operator==(const Heard&) const = default;

  void add(const ToolDelta& delta) {
    text += delta.text;
    for (const ToolDelta::Call& call : delta.calls) {
      if (!call.name.empty()) calls.emplace_back(call.name, "");
      expect(!calls.empty() && call.index + 1 == std::ssize(calls), "a call has a name before its arguments");
      calls.back().second += call.arguments;
    }
  }
};

Heard hear(const ToolParsing& parsing, std::string_view answer, std::size_t piece) {
  ToolCallParser parser(parsing);
  Heard heard;
  for (std::size_t at = 0; at < answer.size(); at += piece) heard.add(parser.add(answer.substr(at, piece)));
  heard.add(parser.finish());
  return heard;
}

void read_answer(std::string_view answer, uint8_t choice) {
  ToolParsing parsing{
      .format = format_of(choice >> 1), .names = {"f", "get"}, .is_opened = (choice & 8) != 0};
  for (const bool by_pieces : {false, true}) {
    parsing.by_pieces = by_pieces;
    const Heard whole = hear(parsing, answer, answer.size());
    for (const std::size_t piece : {1, 2, 5})
      expect(hear(parsing, answer, piece) == whole, "pieces change nothing");
    expect(!whole.calls.empty() || whole.text == answer, "without a call all is text");
    for (const auto& [name, arguments] : whole.calls)
      expect(by_pieces || nlohmann::json::parse(arguments).is_object(), "arguments are an object");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view text = text_of(data + 1, size - 1);
  if ((data[0] & 64) != 0) {
    read_answer(text, data[0]);
  } else {
    take_or_refuse([&] { read_request(text, data[0]); });
  }
  return 0;
}

}  // namespace shadowkv::testing
