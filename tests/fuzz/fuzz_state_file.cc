// A file of saved state, as it comes and with checksums that fit: what stands behind them must not be trusted
// either.
#include <algorithm>
#include <cstring>

#include "base/checksum.h"
#include "formats/state_file.h"
#include "fuzz/fuzz.h"

namespace shadowkv::testing {
namespace {

constexpr std::size_t kHeader = 48, kSum = 8;

template <typename T>
T number_at(const std::string& file, std::size_t at) {
  T number;
  std::memcpy(&number, file.data() + at, sizeof(number));
  return number;
}

void set_sum(std::string& file, std::size_t at, std::size_t first, std::size_t count, uint64_t seed) {
  const uint64_t sum = checksum(std::as_bytes(std::span(file).subspan(first, count)), seed);
  std::memcpy(file.data() + at, &sum, kSum);
}

// The same with the checksums that its bytes have, as far as its sizes go.
std::string mended(std::string file) {
  if (file.size() < kHeader) return file;
  const auto left = static_cast<int64_t>(file.size() - kHeader);
  const int64_t description = number_at<int64_t>(file, 16);
  if (description >= 0 && description <= left) {
    const auto count = static_cast<std::size_t>(description);
    set_sum(file, 32, kHeader, count, ~uint64_t{0} - 1);
    const std::size_t block = kHeader + count;
    if (file.size() >= block + kSum) set_sum(file, block, block + kSum, file.size() - block - kSum, 0);
  }
  set_sum(file, 40, 0, 40, ~uint64_t{0});
  return file;
}

void read_state(std::string_view bytes) {
  static ThreadPool threads(1);
  take_or_refuse([&] {
    const StateReader reader(folder().write("state", bytes));
    std::string content(static_cast<std::size_t>(reader.content_bytes()), '\0');
    reader.read(0, std::as_writable_bytes(std::span(content)), threads);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view text = text_of(data, size);
  read_state(text);
  read_state(mended(std::string(text)));
  return 0;
}

}  // namespace shadowkv::testing
