// tokenizer.json, and the tokenizer that comes of it.
#include "fuzz/tokens.h"

namespace shadowkv::testing {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const auto path = folder().write("tokenizer.json", text_of(data, size));
  take_or_refuse([&] { use(*Tokenizer::from_json_file(path)); });
  return 0;
}

}  // namespace shadowkv::testing
