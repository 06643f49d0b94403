// Checksums by which a hub names contents: sha256 of large files, git's object id of small ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace shadowkv {

enum class DigestKind : uint8_t { sha256, git_blob };

// The kind that a name of a blob is, by its length; throws InvalidInput naming `file` for a name that is no
// checksum.
[[nodiscard]] DigestKind digest_kind(std::string_view name, std::string_view file);
// "sha256" or "git object id".
[[nodiscard]] std::string_view name_of(DigestKind kind);

class Digest {
 public:
  // size: of all that will be added; a git object id begins with it.
  Digest(DigestKind kind, int64_t size);
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void add(std::span<const std::byte> bytes);
  // Lower-case hexadecimal digits; nothing can be added afterwards.
  [[nodiscard]] std::string finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// Of a file's contents; `check` is called between pieces and may throw.
[[nodiscard]] std::string digest_of_file(const std::filesystem::path& path, DigestKind kind,
                                         const std::function<void()>& check);

}  // namespace shadowkv
