// A GGUF v3 file, memory-mapped and fully checked before anything is handed out: every count, offset, shape
// and type is validated against the file's size in 64 bits, so the accessors below cannot run off its end.
// Lives beneath model/ (weights) and tokenizer/ (vocabulary), which both read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "formats/encoding.h"

namespace shadowkv {

using GgufType = Encoding;

struct GgufTensor {
  std::string name;
  GgufType type;
  std::vector<int64_t> shape;       // row-major: outermost first, so [rows, columns] for a matrix
  std::span<const std::byte> data;  // into the mapping
};

// Whether a file that can be read begins as GGUF files do.
[[nodiscard]] bool starts_like_gguf(const std::filesystem::path& path);

class GgufFile {
 public:
  using Value = std::variant<int64_t, double, bool, std::string, std::vector<int64_t>, std::vector<double>,
                             std::vector<std::string>>;

  // Throws InvalidInput naming the path, what was found and where, for anything that is not a whole GGUF v3
  // file.
  explicit GgufFile(const std::filesystem::path& path);
  ~GgufFile();
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;

  [[nodiscard]] const std::filesystem::path& path() const;
  // nullptr when the key is absent.
  [[nodiscard]] const Value* find(std::string_view key) const;
  // The key's value as T (one of Value's types; integers also read as double); throws InvalidInput naming the
  // key when it is absent or of another type.
  template <typename T>
  [[nodiscard]] T get(std::string_view key) const;
  // The same, or `fallback` when the key is absent.
  template <typename T>
  [[nodiscard]] T get_or(std::string_view key, T fallback) const {
    return find(key) ? get<T>(key) : fallback;
  }

  [[nodiscard]] std::span<const GgufTensor> tensors() const;
  [[nodiscard]] const GgufTensor* find_tensor(std::string_view name) const;

 private:
  struct Contents;
  std::unique_ptr<Contents> contents_;
};

}  // namespace shadowkv
