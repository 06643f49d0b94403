// One .safetensors file, memory-mapped and fully checked before anything is handed out: the header is JSON of
// bounded size, and the tensors tile the data exactly, without overlap or hole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/encoding.h"
#include "formats/mapped_file.h"

namespace shadowkv {

struct SafetensorsTensor {
  std::string name;
  std::string dtype;  // as the file writes it: "F32", "BF16", "I64", ...
  std::optional<Encoding>
      encoding;                // nothing when the dtype is known to the format but not readable as floats
  std::vector<int64_t> shape;  // row-major; empty for a scalar
  std::span<const std::byte> data;  // into the mapping; not aligned
};

class SafetensorsFile {
 public:
  // Throws InvalidInput naming the path, what was found and where, for anything that is not a whole file.
  explicit SafetensorsFile(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::span<const SafetensorsTensor> tensors() const {
    return tensors_;
  }                                                                                 // by place in the file
  [[nodiscard]] const SafetensorsTensor* find_tensor(std::string_view name) const;  // nullptr: none
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::filesystem::path path_;
  MappedFile mapping_;
  std::vector<SafetensorsTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;  // name -> place in tensors_
  std::map<std::string, std::string> metadata_;
};

}  // namespace shadowkv
