// Writes small GGUF v3 files for tests, truthful ones by default; every claim of the header can be falsified.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf.h"

namespace shadowkv::testing {

template <typename T>
void append(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  std::string out;
  for (const T value : values) append(out, value);
  return out;
}

class GgufWriter {
 public:
  struct Tensor {
    std::string name;
    std::vector<uint64_t> shape;  // row-major; written innermost first
    uint32_t type = 0;
    std::string data;
    std::optional<uint64_t> offset;  // instead of the true one
  };

  std::string magic = "GGUF";
  uint32_t version = 3;
  std::optional<uint64_t> claimed_tensors;
  std::optional<uint64_t> claimed_values;
  uint64_t alignment = 32;  // of the data; says nothing about general.alignment
  std::vector<Tensor> tensors;

  // `type` is GGUF's number of the value's type, `bytes` the value as it lies in the file.
  GgufWriter& raw(std::string_view key, uint32_t type, std::string_view bytes) {
    string(values_, key);
    append(values_, type);
    values_.append(bytes);
    ++value_count_;
    return *this;
  }
  template <typename T>
  GgufWriter& scalar(std::string_view key, uint32_t type, T value) {
    std::string bytes;
    append(bytes, value);
    return raw(key, type, bytes);
  }
  GgufWriter& integer(std::string_view key, uint32_t value) { return scalar(key, 4, value); }
  GgufWriter& real(std::string_view key, float value) { return scalar(key, 6, value); }
  GgufWriter& text(std::string_view key, std::string_view value) {
    std::string bytes;
    string(bytes, value);
    return raw(key, 8, bytes);
  }
  // An array of `claimed` elements of type number `type`.
  GgufWriter& array(std::string_view key, uint32_t type, uint64_t claimed, std::string_view elements) {
    std::string bytes;
    append(bytes, type);
    append(bytes, claimed);
    bytes.append(elements);
    return raw(key, 9, bytes);
  }
  GgufWriter& strings(std::string_view key, const std::vector<std::string>& values) {
    std::string elements;
    for (const std::string& value : values) string(elements, value);
    return array(key, 8, values.size(), elements);
  }
  GgufWriter& tensor(std::string name, std::vector<uint64_t> shape, GgufType type, std::string data) {
    tensors.push_back({std::move(name), std::move(shape), static_cast<uint32_t>(type), std::move(data), {}});
    return *this;
  }
  GgufWriter& floats(std::string name, std::vector<uint64_t> shape, const std::vector<float>& values) {
    return tensor(std::move(name), std::move(shape), GgufType::f32, bytes_of(values));
  }

  // The file; nothing follows the last tensor's bytes.
  [[nodiscard]] std::string bytes() const {
    std::string out = header();
    if (tensors.empty()) return out;
    pad(out);
    const std::size_t start = out.size();
    for (const Tensor& tensor : tensors) {
      out.resize(start + padded(out.size() - start), '\0');
      out += tensor.data;
    }
    return out;
  }

  static void string(std::string& out, std::string_view text) {
    append(out, static_cast<uint64_t>(text.size()));
    out.append(text);
  }

 private:
  [[nodiscard]] std::size_t padded(std::size_t size) const {
    return (size + alignment - 1) / alignment * alignment;
  }
  void pad(std::string& out) const { out.resize(padded(out.size()), '\0'); }

  [[nodiscard]] std::string header() const {
    std::string out = magic;
    append(out, version);
    append(out, claimed_tensors.value_or(tensors.size()));
    append(out, claimed_values.value_or(value_count_));
    out += values_;
    uint64_t offset = 0;
    for (const Tensor& tensor : tensors) {
      string(out, tensor.name);
      append(out, static_cast<uint32_t>(tensor.shape.size()));
      for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent) append(out, *extent);
      append(out, tensor.type);
      append(out, tensor.offset.value_or(offset));
      offset = padded(offset + tensor.data.size());
    }
    return out;
  }

  std::string values_;
  uint64_t value_count_ = 0;
};

}  // namespace shadowkv::testing
