#include "eval/variable_tracking.h"

#include <fmt/format.h>

#include <algorithm>

#include "eval/niah.h"
#include "eval/text.h"

namespace shadowkv::eval {
namespace {

constexpr const char* kQuestion =
    "Memorize and track the chain(s) of variable assignment hidden in the following "
    "text.\n\n{context}\nQuestion: "
    "Find all variables that are assigned the value {query} in the text above.";
constexpr const char* kPrefix =
    " Answer: According to the chain(s) of variable assignment in the text above, {count} variables are "
    "assigned "
    "the value {query}, they are: ";
constexpr int64_t kHops = 4;
constexpr int64_t kExampleTokens = 500;  // of the example and its answer, at most
constexpr int64_t kExampleStep = 5;      // its noise lines come in so many

std::string statement(const TrackedChain& chain, std::size_t i) {
  if (i == 0) return fmt::format("VAR {} = {}", chain.names[0], chain.value);
  return fmt::format("VAR {} = VAR {} ", chain.names[i], chain.names[i - 1]);
}

std::string filled(std::string text, const TrackedChain& chain, Edition edition) {
  if (edition == Edition::y2024)
    text = replace_all(std::move(text), "variables are assigned", "variables are assgined");
  text = fill_in(std::move(text), "count", fmt::format("{}", chain.names.size()));
  return fill_in(std::move(text), "query", chain.value);
}

std::string asked_part(const TrackedChain& chain, Edition edition) {
  return fill_in(filled(kQuestion, chain, edition), "context", chain_context(chain, edition));
}

TrackedChain draw_chain(Random& random, int64_t letters, int64_t noise_lines) {
  TrackedChain chain;
  chain.names = distinct(kHops + 1, [&] { return random_letters(random, letters, 'A'); });
  chain.value = random_number(random, 5);
  chain.noise_lines = noise_lines;
  chain.before = random.sample(noise_lines, kHops + 1);
  std::sort(chain.before.begin(), chain.before.end());
  return chain;
}

std::string solved_example(const TrackedChain& example, Edition edition) {
  const std::string between = edition == Edition::y2024 ? "\n\n\n\n" : "\n\n";
  return asked_part(example, edition) + filled(kPrefix, example, edition) + " " + join(example.names, " ") +
         between;
}

// Noise lines of the example: as many steps as its room allows, one at least.
int64_t example_lines(const Draw& draw, Random random) {
  const auto tokens_of = [&](int64_t steps) {
    Random same = random;
    return draw.count({solved_example(draw_chain(same, 3, steps * kExampleStep), draw.edition), {}});
  };
  const int64_t limit = std::min(kExampleTokens - kTrackingAnswerTokens, draw.length / 2);
  return kExampleStep * std::max<int64_t>(largest_fitting({1, kExampleTokens}, limit, tokens_of), 1);
}

}  // namespace

std::string chain_context(const TrackedChain& chain, Edition edition) {
  // 2024 ends noise lines with a line end and joins everything by blanks, so that a statement shares its line
  // with the noise after it.
  const bool old = edition == Edition::y2024;
  const std::string noise = std::string(kNoiseLine) + (old ? "\n" : "");
  std::vector<std::string> parts;
  std::size_t next = 0;
  for (int64_t i = 0; i < chain.noise_lines; ++i) {
    while (next < chain.names.size() && chain.before[next] == i) parts.push_back(statement(chain, next++));
    parts.push_back(noise);
  }
  return join(parts, old ? " " : "\n");
}

Prompt tracking_prompt(const TrackedChain& example, const TrackedChain& asked, Edition edition) {
  return {solved_example(example, edition) + asked_part(asked, edition), filled(kPrefix, asked, edition)};
}

Sample make_variable_tracking(const Draw& draw) {
  // In 2024 one example served all samples of a file.
  Random common(draw.seed, fmt::format("{} {} example", draw.task, draw.length));
  Random own = draw.random();
  Random example_random = draw.edition == Edition::y2024 ? common : Random(own.next());
  const int64_t lines = example_lines(draw, example_random);
  const TrackedChain example = draw_chain(example_random, 3, lines);
  const auto make = [&](int64_t noise_lines) {
    Random same = own;
    const TrackedChain chain = draw_chain(same, 5, noise_lines);
    return Draft{tracking_prompt(example, chain, draw.edition), chain.names};
  };
  return fit_sample(draw, kTrackingAnswerTokens, {kHops + 2, draw.length}, make);
}

}  // namespace shadowkv::eval
