#include "eval/sample.h"

#include "eval/random.h"

namespace shadowkv::eval {

uint64_t prompt_hash(const Prompt& prompt) {
  return hash_of(prompt.answer_prefix, hash_of(std::string_view("\0", 1), hash_of(prompt.question)));
}

}  // namespace shadowkv::eval
