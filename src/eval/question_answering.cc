#include "eval/question_answering.h"

#include <fmt/format.h>

#include <unordered_set>

#include "base/check.h"
#include "eval/text.h"

namespace shadowkv::eval {
namespace {

constexpr const char* kQuestion =
    "Answer the question based on the given documents. Only give me the answer and do not output any other "
    "words."
    "\n\nThe following are given documents.\n\n{context}\n\nAnswer the question based on the given "
    "documents. Only "
    "give me the answer and do not output any other words.\n\nQuestion: {query}";
constexpr const char* kPrefix = " Answer:";

// Indices of all documents in the order in which they are taken: gold, related, then the others at random.
std::vector<int64_t> order_of(const Question& question, int64_t documents, Random& random) {
  std::vector<int64_t> order = question.gold;
  std::vector<int64_t> related = question.related;
  random.shuffle(related);
  order.insert(order.end(), related.begin(), related.end());
  const std::unordered_set<int64_t> taken(order.begin(), order.end());
  for (const int64_t other : random.sample(documents, documents)) {
    if (!taken.contains(other)) order.push_back(other);
  }
  return order;
}

}  // namespace

Prompt question_prompt(std::span<const std::string> documents, std::string_view question) {
  std::vector<std::string> parts;
  parts.reserve(documents.size());
  for (std::size_t i = 0; i < documents.size(); ++i) {
    parts.push_back(fmt::format("Document {}:\n{}", i + 1, documents[i]));
  }
  return {fill_in(fill_in(kQuestion, "query", question), "context", join(parts, "\n\n")), kPrefix};
}

Sample make_question_answering(const Draw& draw, const QuestionSet& set) {
  const auto questions = static_cast<int64_t>(set.questions.size());
  require(draw.index < questions, "{} has {} questions in {}, but sample {} was asked for; lower --samples",
          draw.task, questions, set.source, draw.index + 1);
  const Question& question = set.questions[static_cast<std::size_t>(draw.index)];
  Random random = draw.random();
  const std::vector<int64_t> order = order_of(question, static_cast<int64_t>(set.documents.size()), random);
  const auto make = [&](int64_t size) {
    std::vector<std::string> documents;
    for (int64_t i = 0; i < size; ++i) {
      documents.push_back(set.documents[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]);
    }
    Random same = random;
    same.shuffle(documents);
    return Draft{question_prompt(documents, question.text), question.answers};
  };
  Sample sample =
      fit_sample(draw, kQuestionAnswerTokens,
                 {static_cast<int64_t>(question.gold.size()), static_cast<int64_t>(order.size())}, make);
  sample.metric = Metric::part;
  return sample;
}

}  // namespace shadowkv::eval
