// Reads the .npy files of tests/testdata: format 1 or 2, C order, little endian, float32 or int32.
#pragma once

#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace shadowkv::testing {

template <typename T>
struct NpyArray {
  std::vector<int64_t> shape;
  std::vector<T> values;  // row-major, as many as the product of shape

  // Numbers in one step along the first axis; needs at least one axis.
  [[nodiscard]] int64_t row_size() const { return static_cast<int64_t>(values.size()) / shape.at(0); }
  // The row-th slice along the first axis, row_size() numbers.
  [[nodiscard]] const T* row(int64_t row) const { return values.data() + row * row_size(); }
};

namespace npy_detail {

template <typename T>
[[nodiscard]] consteval std::string_view descriptor() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, int32_t>, "float32 and int32 only");
  return std::is_same_v<T, float> ? "'descr': '<f4'" : "'descr': '<i4'";
}

[[noreturn]] inline void fail(const std::filesystem::path& path, const std::string& what) {
  throw std::runtime_error(path.string() + ": " + what);
}

// "(33, 288)" or "(72,)" after 'shape': -> its numbers.
inline std::vector<int64_t> parse_shape(std::string_view header, const std::filesystem::path& path) {
  const size_t open = header.find('(', header.find("'shape'"));
  const size_t close = header.find(')', open);
  if (open == std::string_view::npos || close == std::string_view::npos) fail(path, "header has no shape");
  std::vector<int64_t> shape;
  const char* at = header.data() + open + 1;
  const char* end = header.data() + close;
  while (at < end) {
    int64_t size = 0;
    const auto [next, error] = std::from_chars(at, end, size);
    if (error == std::errc{}) shape.push_back(size);
    at = error == std::errc{} ? next : at + 1;
  }
  return shape;
}

// Bytes before the data, and the header's text through `header`.
inline size_t parse_preamble(std::string_view bytes, std::string_view& header,
                             const std::filesystem::path& path) {
  if (bytes.size() < 12 || bytes.substr(0, 6) != "\x93NUMPY") fail(path, "not a .npy file");
  const bool wide = bytes[6] >= 2;
  uint32_t length = 0;
  std::memcpy(&length, bytes.data() + 8, wide ? 4 : 2);
  const size_t start = wide ? 12 : 10;
  if (bytes.size() < start + length) fail(path, "header is cut off");
  header = bytes.substr(start, length);
  return start + length;
}

}  // namespace npy_detail

// Throws std::runtime_error with the path when the file is missing, of another type, or of another size than
// its header says.
template <typename T>
[[nodiscard]] NpyArray<T> read_npy(const std::filesystem::path& path) {
  static_assert(std::endian::native == std::endian::little);
  std::ifstream file(path, std::ios::binary);
  if (!file) npy_detail::fail(path, "cannot be opened");
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::string_view header;
  const size_t start = npy_detail::parse_preamble(bytes, header, path);
  if (header.find(npy_detail::descriptor<T>()) == std::string_view::npos)
    npy_detail::fail(path, "holds another type");
  if (header.find("'fortran_order': False") == std::string_view::npos)
    npy_detail::fail(path, "is not in C order");

  NpyArray<T> array{npy_detail::parse_shape(header, path), {}};
  size_t count = 1;
  for (const int64_t size : array.shape) count *= static_cast<size_t>(size);
  if (bytes.size() - start != count * sizeof(T)) npy_detail::fail(path, "has a size its header does not say");
  array.values.resize(count);
  std::memcpy(array.values.data(), bytes.data() + start, count * sizeof(T));
  return array;
}

}  // namespace shadowkv::testing
