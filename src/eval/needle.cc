#include "eval/needle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/suggest.h"
#include "eval/text.h"

namespace shadowkv::eval {
namespace {

// What the two prompts are made of; {context} stands for the haystack with the needle in it.
struct Wording {
  const char* question;
  const char* needle;
  int64_t max_new_tokens;
  int64_t head_room;  // tokens of the length that the prompt leaves free
  Metric metric;
};
constexpr const char* kPaperQuestion =
    "Question: What is the special magic {city} number? Don't give information outside the document or "
    "repeat your "
    "findings. Keep your response short and direct. Answer: ";
constexpr Wording kPaper{
    "Write a high-quality answer for the given question using only the provided search results (some of "
    "which might be irrelevant).\n{context}\n\n{question}",
    "\nThe special magic {city} number is: {number}\n", 10, 32, Metric::contained};
constexpr Wording kClassic{
    "You are a helpful AI bot that answers questions for a user. Keep your response short and "
    "direct\n\n{context}\n\n"
    "What is the best thing to do in San Francisco? Don't give information outside the document or repeat "
    "your "
    "findings",
    " The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.", 300,
    200, Metric::all};

constexpr const char* kCities[] = {
    "Accra",      "Addis Ababa", "Amman",       "Amsterdam", "Ankara",    "Athens",   "Auckland",
    "Baghdad",    "Baku",        "Bamako",      "Bangkok",   "Barcelona", "Beijing",  "Beirut",
    "Belgrade",   "Berlin",      "Bogota",      "Boston",    "Brasilia",  "Brussels", "Bucharest",
    "Budapest",   "Cairo",       "Calgary",     "Cape Town", "Caracas",   "Chicago",  "Colombo",
    "Copenhagen", "Dakar",       "Damascus",    "Delhi",     "Denver",    "Dhaka",    "Doha",
    "Dubai",      "Dublin",      "Durban",      "Edinburgh", "Geneva",    "Hamburg",  "Hanoi",
    "Harare",     "Havana",      "Helsinki",    "Hong Kong", "Houston",   "Istanbul", "Jakarta",
    "Jerusalem",  "Kabul",       "Kampala",     "Karachi",   "Kathmandu", "Khartoum", "Kigali",
    "Kingston",   "Kyiv",        "Kyoto",       "Lagos",     "Lahore",    "Lima",     "Lisbon",
    "Ljubljana",  "London",      "Luanda",      "Lusaka",    "Madrid",    "Manila",   "Maputo",
    "Marseille",  "Melbourne",   "Mexico City", "Miami",     "Milan",     "Minsk",    "Montreal",
    "Mumbai",     "Munich",      "Nairobi",     "New York",  "Osaka",     "Oslo",     "Ottawa",
    "Paris",      "Perth",       "Prague",      "Quito",     "Riga",      "Rome",     "Santiago",
    "Seoul",      "Shanghai",    "Singapore",   "Sofia",     "Stockholm", "Sydney",   "Tokyo",
    "Vienna",     "Warsaw"};

// `bytes` of the haystack from `start`, round its end where it runs out, cut at whole characters.
std::string stretch(const std::string& haystack, std::size_t start, int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  std::string text = haystack.substr(start, size);
  while (text.size() < size) text.append(haystack, 0, size - text.size());
  const auto continues = [](char c) { return (static_cast<unsigned char>(c) & 0xc0u) == 0x80u; };
  if (!continues(haystack[(start + size) % haystack.size()])) return text;
  while (!text.empty() && continues(text.back())) text.pop_back();
  if (!text.empty()) text.pop_back();
  return text;
}

// Room for an answer of so many tokens; 0: as it is.
Wording with_answer(Wording wording, int64_t tokens) {
  if (tokens == 0) return wording;
  wording.head_room += tokens - wording.max_new_tokens;
  wording.max_new_tokens = tokens;
  return wording;
}

// Where a sentence or a line of the haystack begins, drawn at random.
std::size_t draw_start(const std::string& haystack, Random& random) {
  const auto from = static_cast<std::size_t>(random.below(static_cast<int64_t>(haystack.size())));
  const std::size_t end = haystack.find_first_of(".\n", from);
  if (end == std::string::npos) return 0;
  const std::size_t start = haystack.find_first_not_of(". \r\n", end);
  return start == std::string::npos ? 0 : start;
}

}  // namespace

NeedlePrompt parse_needle_prompt(std::string_view name) {
  if (name == "paper") return NeedlePrompt::paper;
  if (name == "classic") return NeedlePrompt::classic;
  throw InvalidInput(unknown_name("prompt", name, std::vector<std::string>{"paper", "classic"}));
}

std::string plant(const std::string& text, const std::string& needle, int64_t depth_percent) {
  if (depth_percent >= 100) return text + needle;
  const std::size_t depth = text.size() * static_cast<std::size_t>(depth_percent) / 100;
  const std::size_t end = depth == 0 ? std::string::npos : text.find_last_of(".\n", depth - 1);
  const std::size_t at = end == std::string::npos ? 0 : end + 1;
  return text.substr(0, at) + needle + text.substr(at);
}

std::vector<int64_t> needle_depths(int64_t count) {
  if (count == 1) return {50};
  std::vector<int64_t> depths;
  for (int64_t i = 0; i < count; ++i) {
    depths.push_back(std::lround(100.0 * static_cast<double>(i) / static_cast<double>(count - 1)));
  }
  return depths;
}

Sample make_needle_turns(const NeedlePlan& plan, int64_t turns, const Draw& draw) {
  const std::string& haystack = plan.haystack;
  require(!haystack.empty(), "the haystack is empty; name a text with --haystack");
  require(turns >= 1 && turns <= kMostNeedleTurns, "{} turns were asked for; take 1 to {}", turns,
          kMostNeedleTurns);
  Random random = draw.random();
  std::vector<std::string> needles;
  std::vector<Turn> asked;
  const Wording wording = with_answer(kPaper, plan.answer_tokens);
  int64_t room = wording.head_room;  // of the length: later questions, and all answers
  for (const int64_t city : random.sample(std::size(kCities), turns)) {
    const std::string number = random_number(random, 7),
                      question = fill_in(kPaperQuestion, "city", kCities[city]);
    needles.push_back(fill_in(fill_in(kPaper.needle, "city", kCities[city]), "number", number));
    asked.push_back({.task = {}, .prompt = {.question = "\n\n" + question}, .outputs = {number}});
    room += draw.count(asked.back().prompt) + wording.max_new_tokens;
  }
  const std::size_t start = draw_start(haystack, random);
  random.shuffle(asked);
  for (std::size_t t = 0; t < asked.size(); ++t) asked[t].task = fmt::format("turn {}", t + 1);
  const std::vector<int64_t> depths = needle_depths(turns);
  const std::string opening = replace_all(kPaper.question, "\n\n{question}", asked.front().prompt.question);
  const auto make = [&](int64_t bytes) {
    std::string context = stretch(haystack, start, bytes);
    for (auto i = std::ssize(depths); i-- > 0;)  // from the end: depths of what stands before stay
      context = plant(context, needles[static_cast<std::size_t>(i)], depths[static_cast<std::size_t>(i)]);
    return Draft{{fill_in(opening, "context", context), ""}, {}};
  };
  Sample sample = fit_sample(draw, room, {1, 64 * draw.length}, make);
  sample.task = asked.front().task;
  sample.outputs = asked.front().outputs;
  sample.max_new_tokens = wording.max_new_tokens;
  sample.metric = kPaper.metric;
  sample.later.assign(asked.begin() + 1, asked.end());
  return sample;
}

Sample make_needle(const NeedlePlan& plan, const Draw& draw) {
  require(!plan.haystack.empty(), "the haystack is empty; name a text with --haystack");
  const bool paper = plan.prompt == NeedlePrompt::paper;
  const Wording wording = with_answer(paper ? kPaper : kClassic, plan.answer_tokens);
  Random random = draw.random();
  const std::string city = kCities[random.below(std::size(kCities))];
  const std::string number = random_number(random, 7);
  const std::size_t start = draw_start(plan.haystack, random);
  const std::string needle = fill_in(fill_in(wording.needle, "city", city), "number", number);
  const std::string question = fill_in(fill_in(wording.question, "question", kPaperQuestion), "city", city);
  const auto make = [&](int64_t bytes) {
    const std::string context = plant(stretch(plan.haystack, start, bytes), needle, plan.depth_percent);
    return Draft{{fill_in(question, "context", context), ""}, {}};
  };
  // No token is longer than 64 bytes on average.
  Sample sample = fit_sample(draw, wording.head_room, {1, 64 * draw.length}, make);
  sample.max_new_tokens = wording.max_new_tokens;
  sample.metric = wording.metric;
  // The classic one was judged by a model; here by the share of its three parts.
  sample.outputs = paper ? std::vector<std::string>{number}
                         : std::vector<std::string>{"eat a sandwich", "Dolores Park", "sunny day"};
  return sample;
}

}  // namespace shadowkv::eval
