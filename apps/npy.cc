#include "npy.h"

#include <fmt/core.h>

#include <bit>
#include <string>

#include "base/check.h"

namespace shadowkv::apps {

void write_npy(std::ostream& out, std::span<const float> values, int64_t rows, int64_t columns) {
  static_assert(std::endian::native == std::endian::little, "the header below says little-endian");
  require(checked_mul(rows, columns, "logits") == static_cast<int64_t>(values.size()),
          "{} numbers are not an array of {} x {}", values.size(), rows, columns);
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  // Magic, version and length take 10 bytes; the data begins at a multiple of 64.
  const auto padded = static_cast<std::size_t>(round_up(static_cast<int64_t>(header.size()) + 11, 64)) - 10;
  header.resize(padded - 1, ' ');
  header += '\n';
  out.write("\x93NUMPY\x01\x00", 8);
  out.put(static_cast<char>(padded & 0xFFu)).put(static_cast<char>(padded >> 8));
  out << header;
  out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
}

}  // namespace shadowkv::apps
