// config.json; the same text stands as generation_config.json beside it.
#include "fuzz/fuzz.h"
#include "model/config.h"

namespace shadowkv::testing {

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  folder().write("config.json", text_of(data, size));
  folder().write("generation_config.json", text_of(data, size));
  take_or_refuse([&] { (void)config_from_hf_folder(folder().path()).parameters(); });
  return 0;
}

}  // namespace shadowkv::testing
