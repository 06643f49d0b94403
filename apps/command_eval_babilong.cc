// shadowkv eval babilong: facts of a short story scattered in a book.
#include <fmt/format.h>

#include <memory>

#include "base/check.h"
#include "commands.h"
#include "eval/babilong.h"
#include "eval/text.h"
#include "eval_run.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  EvalArguments shared;
  std::string tasks = "all";
  std::filesystem::path haystack;
};

constexpr const char* kBookFrom = "standardebooks.org, or name any long text with --haystack";

using Stories = std::vector<eval::BabiStory>;
using Sentences = std::vector<std::string>;

std::shared_ptr<Sentences> read_book(const Arguments& a) {
  const std::filesystem::path path =
      a.haystack.empty() ? a.shared.data / "books/war_and_peace.txt" : a.haystack;
  const Sentences words = eval::split_words(eval::read_data_file(path, kBookFrom));
  return std::make_shared<Sentences>(eval::split_sentences(eval::join(words, " ")));
}

eval::SampleSource source_of(const Arguments& a, const std::shared_ptr<eval::Corpus>& corpus,
                             const std::shared_ptr<Sentences>& book, const eval::CountTokens& count) {
  eval::SampleSource source;
  const std::vector<std::string> tasks = names_of(a.tasks, "--tasks", eval::babilong_tasks());
  for (const int64_t length : lengths_of(a.shared)) {
    for (const std::string& task : tasks) {
      const auto stories = std::make_shared<Stories>(eval::read_babi(a.shared.data / "babi", task));
      for (int64_t index = 0; index < a.shared.samples; ++index) {
        source.emplace_back([=, seed = static_cast<uint64_t>(a.shared.seed)] {
          return eval::make_babilong(*stories, *book,
                                     {task, length, index, seed, eval::Edition::current, *corpus, count});
        });
      }
    }
  }
  return source;
}

void run(Arguments& a) {
  check_model_options(a.shared.engine);
  (void)lengths_of(a.shared);
  require(!a.shared.data.empty(), "no data is given; add --data DIR with the folder babi in it");
  for (const std::string& task : names_of(a.tasks, "--tasks", eval::babilong_tasks())) {
    (void)eval::read_babi(a.shared.data / "babi", task);
  }
  const std::shared_ptr<Sentences> book = read_book(a);
  const auto corpus = std::make_shared<eval::Corpus>(a.shared.data);
  run_eval(a.shared, {"BABILong", eval::Scoring::ruler, {}},
           [&](const SourceModel& model) { return source_of(a, corpus, book, model.count); });
}

}  // namespace

Command add_eval_babilong(CLI::App& eval) {
  CLI::App& app =
      add_subcommand(eval, "babilong",
                     "Ask about facts of a bAbI story that stand scattered between the sentences of a book.");
  const auto arguments = std::make_shared<Arguments>();
  Arguments& a = *arguments;
  add_text(app,
           {"--tasks", "NAMES", "Tasks separated by commas: all, or some of qa1, qa2, qa3, qa4, qa5", ""},
           a.tasks);
  add_path(app,
           {"--haystack", "FILE", "Book to scatter the facts in [default: DIR/books/war_and_peace.txt]", ""},
           a.haystack);
  add_eval_options(app, a.shared);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
