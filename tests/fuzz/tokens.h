// A tokenizer that came from an untrusted file, put to use.
#pragma once

#include <numeric>
#include <vector>

#include "fuzz/fuzz.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv::testing {

inline void use(const Tokenizer& tokenizer) {
  take_or_refuse([&] {
    (void)tokenizer.encode("The  caf\u00e9's 12345 abab\r\n <s>\u4e2d\u6587 \U0001f600\t e\u0301x");
  });
  std::vector<int32_t> ids(static_cast<std::size_t>(tokenizer.vocab_size()));
  std::iota(ids.begin(), ids.end(), 0);
  (void)tokenizer.decode(ids, false);
  (void)tokenizer.decode(ids, true);
}

}  // namespace shadowkv::testing
