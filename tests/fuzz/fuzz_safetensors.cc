// One .safetensors file, and the index of a folder of shards.
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"
#include "formats/sharded_safetensors.h"
#include "formats/tensors.h"
#include "fuzz/fuzz.h"

namespace shadowkv::testing {
namespace {

// The shards that an index may place tensors in.
bool write_shards() {
  folder().write("a.safetensors", SafetensorsWriter().floats("x", {2}, {1, 2}).bytes());
  folder().write("b.safetensors", SafetensorsWriter().floats("y", {1}, {3}).floats("z", {1}, {4}).bytes());
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  [[maybe_unused]] static const bool written = write_shards();
  const std::string_view text = text_of(data, size);
  take_or_refuse([&] {
    const SafetensorsFile file(folder().write("model", text));
    for (const SafetensorsTensor& tensor : file.tensors()) read_all(tensor, tensor.encoding);
  });
  folder().write("model.safetensors.index.json", text);
  take_or_refuse([&] { (void)ShardedSafetensors(folder().path()).find_tensor("x"); });
  return 0;
}

}  // namespace shadowkv::testing
