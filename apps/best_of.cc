#include "best_of.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "interrupt.h"
#include "shadowkv/service.h"

namespace shadowkv::apps {
namespace {

using namespace std::chrono_literals;

constexpr auto kLook = 5ms;  // between two looks for an end, or for Ctrl-C

ServiceRequest service_request_of(const GenerateRequest& request) {
  ServiceRequest asked{.prompt = request.prompt,
                       .prompt_ids = request.prompt_ids,
                       .sampling = request.sampling,
                       .max_new_tokens = request.max_new_tokens,
                       .ignore_eos = request.ignore_eos};
  if (!asked.sampling.logprobs) asked.sampling.logprobs = 0;
  return asked;
}

GenerateResult result_of(Stream& stream) {
  while (!stream.report().ended) {
    check_interrupted();
    std::this_thread::sleep_for(kLook);
  }
  GenerateResult result;
  while (std::optional<TokenEvent> token = stream.next()) {
    result.ids.push_back(token->id);
    result.text += token->text;
    result.logprobs.push_back(std::move(token->logprobs));
  }
  const RequestReport report = stream.report();
  result.finish = report.finish;
  result.prompt_tokens = report.prompt_tokens;
  result.ttft_s = report.first_s;
  result.decode_s = report.total_s - report.first_s;
  return result;
}

}  // namespace

double mean_logprob(const GenerateResult& answer) {
  double sum = 0;
  for (const std::vector<TokenLogprob>& token : answer.logprobs) sum += token.front().logprob;
  return answer.logprobs.empty() ? 0.0 : sum / static_cast<double>(answer.logprobs.size());
}

std::size_t likeliest(std::span<const GenerateResult> answers) {
  const auto best = std::max_element(answers.begin(), answers.end(), [](const auto& a, const auto& b) {
    return mean_logprob(a) < mean_logprob(b);
  });
  return static_cast<std::size_t>(best - answers.begin());
}

std::vector<GenerateResult> several_answers(Engine& engine, const GenerateRequest& request, int64_t count) {
  const std::unique_ptr<Service> service =
      engine.serve({.attention = request.attention, .max_running = count});
  std::vector<GenerateResult> answers;
  for (const auto& stream : service->submit_several(service_request_of(request), count))
    answers.push_back(result_of(*stream));
  service->wait_idle();
  const ServiceStatistics statistics = service->statistics();
  for (GenerateResult& answer : answers) answer.statistics = statistics.attention;
  return answers;
}

Json best_of_json(std::span<const GenerateResult> answers) {
  Json all = Json::array();
  for (const GenerateResult& answer : answers) {
    all.push_back({{"mean_logprob", mean_logprob(answer)},
                   {"tokens", answer.ids.size()},
                   {"finish", name_of(answer.finish)},
                   {"text", answer.text}});
  }
  return {{"chosen", likeliest(answers)}, {"answers", std::move(all)}};
}

}  // namespace shadowkv::apps
