#include "eval/sample.h"

#include "eval/random.h"

namespace shadowkv::eval {

uint64_t prompt_hash(const Prompt& prompt) {
  return hash_of(prompt.answer_prefix, hash_of(std::string_view("\0", 1), hash_of(prompt.question)));
}

std::vector<Sample> turns_of(const Sample& sample) {
  std::vector<Sample> turns{sample};
  turns.front().later.clear();
  for (const Turn& turn : sample.later) {
    Sample& one = turns.emplace_back(turns.front());
    one.task = turn.task;
    one.prompt = turn.prompt;
    one.outputs = turn.outputs;
  }
  return turns;
}

}  // namespace shadowkv::eval
