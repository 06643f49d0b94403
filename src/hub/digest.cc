#include "hub/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <vector>

#include "base/check.h"
#include "formats/quote.h"
#include "hub/names.h"

namespace shadowkv {
namespace {

void check_library(int result) {
  if (result != 1) throw DeviceFailure("OpenSSL cannot compute a checksum; check its installation");
}

}  // namespace

struct Digest::Context {
  EVP_MD_CTX* md = EVP_MD_CTX_new();
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() { EVP_MD_CTX_free(md); }
};

DigestKind digest_kind(std::string_view name, std::string_view file) {
  if (is_hex(name, 64)) return DigestKind::sha256;
  require(is_hex(name, 40), "the hub gives {} for a checksum of {}, expected a sha256 or a git object id",
          in_quotes(name), printable(file));
  return DigestKind::git_blob;
}

std::string_view name_of(DigestKind kind) {
  return kind == DigestKind::sha256 ? "sha256" : "git object id";
}

Digest::Digest(DigestKind kind, int64_t size) : context_(std::make_unique<Context>()) {
  check_library(context_->md != nullptr ? 1 : 0);
  check_library(
      EVP_DigestInit_ex(context_->md, kind == DigestKind::sha256 ? EVP_sha256() : EVP_sha1(), nullptr));
  if (kind == DigestKind::sha256) return;
  const std::string header = fmt::format("blob {}", size);  // its final zero byte is part of it
  check_library(EVP_DigestUpdate(context_->md, header.c_str(), header.size() + 1));
}

Digest::~Digest() = default;

void Digest::add(std::span<const std::byte> bytes) {
  check_library(EVP_DigestUpdate(context_->md, bytes.data(), bytes.size()));
}

std::string Digest::finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned int count = 0;
  check_library(EVP_DigestFinal_ex(context_->md, bytes.data(), &count));
  return fmt::format("{:02x}", fmt::join(bytes.begin(), bytes.begin() + count, ""));
}

std::string digest_of_file(const std::filesystem::path& path, DigestKind kind,
                           const std::function<void()>& check) {
  Digest digest(kind, static_cast<int64_t>(std::filesystem::file_size(path)));
  std::ifstream file(path, std::ios::binary);
  std::vector<char> piece(std::size_t{1} << 20);
  while (file) {
    check();
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    digest.add(std::as_bytes(std::span(piece).first(static_cast<std::size_t>(file.gcount()))));
  }
  if (!file.eof()) throw DeviceFailure(fmt::format("{} cannot be read; check the disk", path.string()));
  return digest.finish();
}

}  // namespace shadowkv
