// Writes small .safetensors files for tests.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf_writer.h"

namespace shadowkv::testing {

// Any header before any data, true or not.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  std::string out;
  append(out, static_cast<uint64_t>(header.size()));
  out.append(header);
  out.append(data);
  return out;
}

class SafetensorsWriter {
 public:
  SafetensorsWriter& tensor(std::string_view name, std::string_view dtype, const std::vector<int64_t>& shape,
                            std::string_view data) {
    std::string extents;
    for (const int64_t extent : shape) extents += fmt::format("{}{}", extents.empty() ? "" : ",", extent);
    header_ += fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                           header_.empty() ? "" : ",", name, dtype, extents, data_.size(),
                           data_.size() + data.size());
    data_.append(data);
    return *this;
  }
  SafetensorsWriter& floats(std::string_view name, const std::vector<int64_t>& shape,
                            const std::vector<float>& values) {
    return tensor(name, "F32", shape, bytes_of(values));
  }
  SafetensorsWriter& metadata(std::string_view key, std::string_view value) {
    header_ += fmt::format("{}\"__metadata__\":{{\"{}\":\"{}\"}}", header_.empty() ? "" : ",", key, value);
    return *this;
  }
  [[nodiscard]] std::string bytes() const { return safetensors_bytes("{" + header_ + "}", data_); }

 private:
  std::string header_;
  std::string data_;
};

}  // namespace shadowkv::testing
