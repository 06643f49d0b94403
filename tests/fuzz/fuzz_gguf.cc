// GGUF files: the container, then the model and the vocabulary that its keys describe.
#include "formats/gguf.h"
#include "formats/tensors.h"
#include "fuzz/tokens.h"
#include "model/config.h"

namespace shadowkv::testing {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const auto path = folder().write("model.gguf", text_of(data, size));
  take_or_refuse([&] {
    const GgufFile file(path);
    for (const GgufTensor& tensor : file.tensors()) read_all(tensor, tensor.type);
    take_or_refuse([&] { (void)config_from_gguf(file).parameters(); });
    take_or_refuse([&] { use(*Tokenizer::from_gguf(file)); });
  });
  return 0;
}

}  // namespace shadowkv::testing
