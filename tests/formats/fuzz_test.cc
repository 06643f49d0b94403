// Random damage to small valid files: the readers load what is left or refuse it, and nothing else happens.
#include <gtest/gtest.h>

#include <random>

#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"
#include "formats/temporary_file.h"
#include "formats/tensors.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

constexpr int kMutations = 4000;

// A few bytes replaced, and now and then a cut or a doubled stretch.
std::string damaged(std::string bytes, std::mt19937& random) {
  const auto below = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  for (std::size_t edits = 1 + below(4); edits > 0; --edits) {
    constexpr unsigned char kNasty[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    const std::size_t place = below(bytes.size());
    bytes[place] = static_cast<char>(below(2) ? kNasty[below(5)] : below(256));
  }
  if (below(8) == 0) bytes.resize(1 + below(bytes.size()));
  if (below(8) == 0) bytes.insert(below(bytes.size()), bytes.substr(below(bytes.size()), 16));
  return bytes;
}

// How many of the mutations still load; `read` throws InvalidInput for the others.
template <typename Read>
int count_readable(const std::string& valid, Read read) {
  const TemporaryFolder folder;
  std::mt19937 random(20240607);
  int readable = 0;
  for (int i = 0; i < kMutations; ++i) {
    const auto path = folder.write("m", damaged(valid, random));
    try {
      read(path);
      ++readable;
    } catch (const InvalidInput&) {
    }
  }
  return readable;
}

TEST(Fuzz, DamagedGgufFilesLoadOrAreRefused) {
  GgufWriter writer;
  writer.text("general.architecture", "llama").integer("n", 3).strings("words", {"a", "bc", ""});
  writer.array("ids", 5, 2, bytes_of<int32_t>({-1, 2})).scalar<uint8_t>("flag", 7, 1).real("x", 1.5f);
  writer.floats("a", {2, 3}, {1, 2, 3, 4, 5, 6}).tensor("q", {1, 32}, GgufType::q8_0, std::string(34, '\1'));
  const int readable = count_readable(writer.bytes(), [](const std::filesystem::path& path) {
    const GgufFile file(path);
    for (const GgufTensor& tensor : file.tensors()) read_all(tensor, tensor.type);
  });
  EXPECT_GT(readable, 0);  // damage to numbers alone is none that a reader can see
  EXPECT_LT(readable, kMutations);
}

TEST(Fuzz, DamagedSafetensorsFilesLoadOrAreRefused) {
  const std::string valid = SafetensorsWriter()
                                .metadata("format", "pt")
                                .floats("b", {2, 3}, {1, 2, 3, 4, 5, 6})
                                .tensor("a", "BF16", {2}, "1234")
                                .bytes();
  const int readable = count_readable(valid, [](const std::filesystem::path& path) {
    const SafetensorsFile file(path);
    for (const SafetensorsTensor& tensor : file.tensors()) read_all(tensor, tensor.encoding);
  });
  EXPECT_GT(readable, 0);
  EXPECT_LT(readable, kMutations);
}

}  // namespace
}  // namespace shadowkv::testing
