// A whole file, read-only, in memory through mmap: pages arrive as they are touched.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace shadowkv {

class MappedFile {
 public:
  // Throws InvalidInput naming the path when it is not a regular file that this process may read,
  // DeviceFailure when the system refuses the mapping.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  // Page-aligned; empty for an empty file. A file that another process shortens meanwhile takes its pages
  // away.
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  void unmap() noexcept;

  std::span<const std::byte> bytes_;
};

}  // namespace shadowkv
