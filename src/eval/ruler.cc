#include "eval/ruler.h"

#include <algorithm>

#include "base/check.h"
#include "base/suggest.h"
#include "eval/niah.h"
#include "eval/question_answering.h"
#include "eval/variable_tracking.h"
#include "eval/word_counts.h"

namespace shadowkv::eval {
namespace {

enum Data : uint8_t { none = 0, words = 1, haystack = 2, squad = 4, hotpot = 8 };

struct Task {
  const char* name;
  TaskFacts facts;
  int data;  // of Data, together
  Sample (*make)(const Draw& draw);
};

template <Filler filler, Token key, Token value, int keys, int values, int queries>
constexpr Task niah(const char* name) {
  constexpr int kData = (key == Token::words ? words : none) | (filler == Filler::essay ? haystack : none);
  return {name, {kNiahAnswerTokens, Metric::all}, kData, [](const Draw& draw) {
            return make_niah({filler, key, value, keys, values, queries}, draw);
          }};
}

constexpr TaskFacts kQuestions{kQuestionAnswerTokens, Metric::part};

constexpr Task kTasks[] = {
    niah<Filler::noise, Token::words, Token::numbers, 1, 1, 1>("niah_single_1"),
    niah<Filler::essay, Token::words, Token::numbers, 1, 1, 1>("niah_single_2"),
    niah<Filler::essay, Token::words, Token::uuids, 1, 1, 1>("niah_single_3"),
    niah<Filler::essay, Token::words, Token::numbers, 4, 1, 1>("niah_multikey_1"),
    niah<Filler::needles, Token::words, Token::numbers, 1, 1, 1>("niah_multikey_2"),
    niah<Filler::needles, Token::uuids, Token::uuids, 1, 1, 1>("niah_multikey_3"),
    niah<Filler::essay, Token::words, Token::numbers, 1, 4, 1>("niah_multivalue"),
    niah<Filler::essay, Token::words, Token::numbers, 4, 1, 4>("niah_multiquery"),
    {"vt", {kTrackingAnswerTokens, Metric::all}, none, make_variable_tracking},
    {"cwe", {kCommonAnswerTokens, Metric::all}, words, make_common_words},
    {"fwe", {kFrequentAnswerTokens, Metric::all}, none, make_frequent_words},
    {"qa_1", kQuestions, squad,
     [](const Draw& draw) { return make_question_answering(draw, draw.corpus.squad()); }},
    {"qa_2", kQuestions, hotpot,
     [](const Draw& draw) { return make_question_answering(draw, draw.corpus.hotpot()); }},
};

const Task& task_of(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kTasks), std::end(kTasks), [&](const Task& t) { return name == t.name; });
  if (found == std::end(kTasks)) throw InvalidInput(unknown_name("RULER task", name, ruler_tasks()));
  return *found;
}

}  // namespace

const std::vector<std::string>& ruler_tasks() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Task& task : kTasks) all.emplace_back(task.name);
    return all;
  }();
  return names;
}

Sample make_ruler(const Draw& draw) {
  return task_of(draw.task).make(draw);
}

void check_data(std::string_view task, Corpus& corpus) {
  const int data = task_of(task).data;
  if ((data & words) != 0) (void)corpus.words();
  if ((data & haystack) != 0) (void)corpus.haystack_words();
  if ((data & squad) != 0) (void)corpus.squad();
  if ((data & hotpot) != 0) (void)corpus.hotpot();
}

TaskFacts ruler_facts(std::string_view task) {
  return task_of(task).facts;
}

}  // namespace shadowkv::eval
