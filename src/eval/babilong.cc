#include "eval/babilong.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "base/suggest.h"
#include "eval/text.h"

namespace shadowkv::eval {
namespace {

struct Task {
  const char* name;
  const char* file;
  const char* instruction;
  const char* examples;
  const char* format;  // of the answer
  std::span<const char* const> labels;
};

const char* const kCarrying =
    "If a person got an item in the first location and travelled to the second location the item is also in "
    "the "
    "second location. If a person dropped an item in the first location and moved to the second location the "
    "item "
    "remains in the first location.";

constexpr const char* kRooms[] = {"bathroom", "bedroom", "garden", "hallway", "kitchen", "office"};
constexpr const char* kGifts[] = {"Bill", "Fred", "Jeff", "Mary", "apple", "football", "milk"};

constexpr Task kTasks[] = {
    {"qa1", "qa1_single-supporting-fact_test.txt",
     "I will give you context with the facts about positions of different persons hidden in some random "
     "text and a "
     "question. You need to answer the question based only on the information from the facts. If a person "
     "was in "
     "different locations, use the latest location to answer the question.",
     "<example>\nCharlie went to the hallway. Judith come back to the kitchen. Charlie travelled to "
     "balcony. Where "
     "is Charlie?\nAnswer: The most recent location of Charlie is balcony.\n</example>\n\n<example>\nAlan "
     "moved to "
     "the garage. Charlie went to the beach. Alan went to the shop. Rouse travelled to balcony. Where is "
     "Alan?\n"
     "Answer: The most recent location of Alan is shop.\n</example>",
     "Always return your answer in the following format: The most recent location of \u2019person\u2019 is "
     "\u2019location\u2019. Do not write anything else after that.",
     kRooms},
    {"qa2", "qa2_two-supporting-facts_test.txt",
     "I give you context with the facts about locations and actions of different persons hidden in some "
     "random text "
     "and a question.You need to answer the question based only on the information from the "
     "facts.\n{carrying}",
     "<example>\nCharlie went to the kitchen. Charlie got a bottle. Charlie moved to the balcony. Where is "
     "the "
     "bottle?\nAnswer: The bottle is in the balcony.\n</example>\n<example>\nAlan moved to the garage. "
     "Alan got a "
     "screw driver. Alan moved to the kitchen. Where is the screw driver?\nAnswer: The screw driver is in "
     "the "
     "kitchen.\n</example>",
     "Always return your answer in the following format: The \u2019item\u2019 is in \u2019location\u2019. "
     "Do not "
     "write anything else after that.",
     kRooms},
    {"qa3", "qa3_three-supporting-facts_test.txt",
     "I give you context with the facts about locations and actions of different persons hidden in some "
     "random text "
     "and a question. You need to answer the question based only on the information from the "
     "facts.\n{carrying}",
     "<example>\nJohn journeyed to the bedroom. Mary grabbed the apple. Mary went back to the bathroom. "
     "Daniel "
     "journeyed to the bedroom. Daniel moved to the garden. Mary travelled to the kitchen. Where was the "
     "apple "
     "before the kitchen?\nAnswer: Before the kitchen the apple was in the "
     "bathroom.\n</example>\n<example>\nJohn "
     "went back to the bedroom. John went back to the garden. John went back to the kitchen. Sandra took "
     "the "
     "football. Sandra travelled to the garden. Sandra journeyed to the bedroom. Where was the football "
     "before the "
     "bedroom?\nAnswer: Before the bedroom the football was in the garden.\n</example>",
     "Always return your answer in the following format: Before the $location_1$ the $item$ was in the "
     "$location_2$. Do not write anything else after that.",
     kRooms},
    {"qa4", "qa4_two-arg-relations_test.txt",
     "I will give you context with the facts about different people, their location and actions, hidden in "
     "some "
     "random text and a question. You need to answer the question based only on the information from the "
     "facts.",
     "<example>\nThe hallway is south of the kitchen. The bedroom is north of the kitchen. What is the "
     "kitchen south "
     "of?\nAnswer: bedroom\n</example>\n<example>\nThe garden is west of the bedroom. The bedroom is west "
     "of the "
     "kitchen. What is west of the bedroom?\nAnswer: garden\n</example>",
     "Your answer should contain only one word - location. Do not write anything else after that.", kRooms},
    {"qa5", "qa5_three-arg-relations_test.txt",
     "I will give you context with the facts about locations and their relations hidden in some random "
     "text and a "
     "question. You need to answer the question based only on the information from the facts.",
     "<example>\nMary picked up the apple there. Mary gave the apple to Fred. Mary moved to the bedroom. "
     "Bill took "
     "the milk there. Who did Mary give the apple to?\nAnswer: Fred\n</example>\n<example>\nJeff took the "
     "football "
     "there. Jeff passed the football to Fred. Jeff got the milk there. Bill travelled to the bedroom. Who "
     "gave the "
     "football?\nAnswer: Jeff\n</example>\n<example>\nFred picked up the apple there. Fred handed the "
     "apple to Bill. "
     "Bill journeyed to the bedroom. Jeff went back to the garden. What did Fred give to Bill?\nAnswer: "
     "apple\n"
     "</example>",
     "Your answer should contain only one word. Do not write anything else after that. Do not explain your "
     "answer.",
     kGifts}};

const Task& task_of(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kTasks), std::end(kTasks), [&](const Task& t) { return name == t.name; });
  if (found == std::end(kTasks)) throw InvalidInput(unknown_name("BABILong task", name, babilong_tasks()));
  return *found;
}

// Each fact before the sentence of its index, ascending; what is left at the end.
std::string scattered(std::span<const std::string> sentences, std::span<const std::string> facts,
                      std::span<const int64_t> before) {
  std::vector<std::string> parts;
  std::size_t next = 0;
  for (std::size_t i = 0; i <= sentences.size(); ++i) {
    while (next < facts.size() && before[next] == static_cast<int64_t>(i)) parts.push_back(facts[next++]);
    if (i < sentences.size()) parts.push_back(sentences[i]);
  }
  return join(parts, " ");
}

// `count` places between or around `sentences` sentences, ascending; several facts may stand together.
std::vector<int64_t> draw_places(int64_t count, int64_t sentences, Random random) {
  std::vector<int64_t> places;
  for (int64_t i = 0; i < count; ++i) places.push_back(random.below(sentences + 1));
  std::sort(places.begin(), places.end());
  return places;
}

// Labels that make an answer wrong: all of the task that neither the question names nor are the reference.
std::vector<std::string> wrong_labels(const Task& task, const BabiStory& story) {
  std::vector<std::string> wrong;
  for (const char* name : task.labels) {
    const std::string label = name;
    const bool asked = lower_case(story.question).find(lower_case(label)) != std::string::npos;
    if (!asked && lower_case(label) != lower_case(story.answer)) wrong.push_back(label);
  }
  return wrong;
}

}  // namespace

const std::vector<std::string>& babilong_tasks() {
  static const std::vector<std::string> names{"qa1", "qa2", "qa3", "qa4", "qa5"};
  return names;
}

std::vector<BabiStory> parse_babi(std::string_view text, std::string_view name) {
  std::vector<BabiStory> stories;
  std::vector<std::string> facts;
  int64_t number = 0;
  for (const std::string& line : split_lines(text)) {
    ++number;
    int64_t place = 0;
    const auto [rest, error] = std::from_chars(line.data(), line.data() + line.size(), place);
    require(error == std::errc() && rest < line.data() + line.size() && *rest == ' ',
            "{}, line {} does not begin with its number in the story; is it a bAbI file?", name, number);
    if (place == 1) facts.clear();
    const std::string content(rest + 1, line.data() + line.size());
    const std::size_t tab = content.find('\t');
    if (tab == std::string::npos) {
      facts.push_back(strip(content));
      continue;
    }
    const std::size_t end = std::min(content.find('\t', tab + 1), content.size());
    stories.push_back({facts, strip(content.substr(0, tab)), strip(content.substr(tab + 1, end - tab - 1))});
    require(!stories.back().answer.empty(), "{}, line {} asks without an answer", name, number);
  }
  require(!stories.empty(), "{} holds no questions; is it a bAbI file?", name);
  return stories;
}

std::vector<BabiStory> read_babi(const std::filesystem::path& folder, std::string_view task) {
  const std::filesystem::path path = folder / task_of(task).file;
  const std::string text =
      read_data_file(path, "tasks_1-20_v1-2/en-10k of the bAbI tasks of Facebook Research");
  return parse_babi(text, path.string());
}

Prompt babilong_prompt(std::string_view name, std::string_view context, std::string_view question) {
  const Task& task = task_of(name);
  const std::string instruction = fill_in(task.instruction, "carrying", kCarrying);
  return {fmt::format("{}\n\n{}\n\n{}\n\n<context>\n{}\n</context>\n\nQuestion: {}", instruction,
                      task.examples, task.format, context, question),
          ""};
}

Sample make_babilong(std::span<const BabiStory> stories, std::span<const std::string> sentences,
                     const Draw& draw) {
  const auto known = static_cast<int64_t>(stories.size()), book = static_cast<int64_t>(sentences.size());
  require(draw.index < known, "{} has {} questions, but sample {} was asked for; lower --samples", draw.task,
          known, draw.index + 1);
  require(book >= 2, "the book has {} sentences; name a longer text with --haystack", book);
  // Stories of one file follow each other closely; samples take them from everywhere.
  Random order(draw.seed, draw.task);
  const int64_t number = order.sample(known, draw.index + 1).back();
  const BabiStory& story = stories[static_cast<std::size_t>(number)];
  Random random = draw.random();
  const int64_t start = random.below(book);
  const auto make = [&](int64_t size) {
    const int64_t first = std::min(start, book - size);
    const auto own = sentences.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(size));
    const std::vector<int64_t> places = draw_places(static_cast<int64_t>(story.facts.size()), size, random);
    return Draft{babilong_prompt(draw.task, scattered(own, story.facts, places), story.question),
                 {story.answer}};
  };
  Sample sample = fit_sample(draw, kBabiAnswerTokens, {0, book}, make);
  sample.metric = Metric::only;
  sample.distractors = wrong_labels(task_of(draw.task), story);
  return sample;
}

}  // namespace shadowkv::eval
