// What is asked of a model, and what it should answer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv::eval {

// The question, and the start of the answer: a chat frame goes round the first, the second comes after it, so
// that the model continues rather than refuses.
struct Prompt {
  std::string question;
  std::string answer_prefix = {};
  bool frame = true;  // may stand in a chat frame
};

// How an output is scored against its references, as the RULER benchmark says.
enum class Metric : uint8_t {
  all,        // share of the references that occur in the output
  part,       // 1 where any reference occurs
  contained,  // 1 where the output holds the reference once both have no punctuation and articles
  word,       // 1 where the reference is a word of the output, between blanks and punctuation
  only,       // 1 where the output's first sentence holds the reference and none of the distractors
  // LongBench's, the best of the references (longbench_metrics.cc):
  f1,      // of words
  rouge,   // ROUGE-L
  number,  // share of the output's numbers that are the reference's
  kind,    // 1 / names in the output where the reference is among them; distractors: all names
  code,    // edit similarity of the first line of code
};

// A further question of a conversation.
struct Turn {
  std::string task;
  Prompt prompt;
  std::vector<std::string> outputs;
};

struct Sample {
  std::string task;
  int64_t length = 0;  // tokens that prompt and answer may take together; 0: not said
  int64_t index = 0;   // of the task and length
  Prompt prompt;
  std::vector<std::string> outputs;  // references
  int64_t max_new_tokens = 128;
  Metric metric = Metric::all;
  std::vector<std::string> distractors = {};  // for Metric::only and kind
  std::vector<Turn> later = {};               // each asked behind the answer to the one before
};

// The questions of a sample, each as a sample of its own.
[[nodiscard]] std::vector<Sample> turns_of(const Sample& sample);

// Tokens of a prompt in the model's own tokenizer, chat frame and all.
using CountTokens = std::function<int64_t(const Prompt& prompt)>;

// Names a prompt: of its question and its prefix.
[[nodiscard]] uint64_t prompt_hash(const Prompt& prompt);

}  // namespace shadowkv::eval
