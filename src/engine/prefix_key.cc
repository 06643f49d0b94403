#include "engine/prefix_key.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <memory>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

void check_library(bool is_well) {
  if (!is_well) throw DeviceFailure("OpenSSL cannot compute a checksum; check its installation");
}

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using Context = std::unique_ptr<EVP_MD_CTX, FreeContext>;

Context make_context() {
  Context context(EVP_MD_CTX_new());
  check_library(context != nullptr);
  return context;
}

void add(EVP_MD_CTX* context, const void* bytes, std::size_t count) {
  check_library(EVP_DigestUpdate(context, bytes, count) == 1);
}

// Its length first, so that no two pairs of texts are one.
void add(EVP_MD_CTX* context, std::string_view text) {
  const auto length = static_cast<uint64_t>(text.size());
  add(context, &length, sizeof(length));
  add(context, text.data(), text.size());
}

}  // namespace

std::vector<PrefixKey> prefix_keys(const PrefixOwner& owner, std::span<const int32_t> tokens,
                                   std::span<const int64_t> cuts) {
  const Context all = make_context(), part = make_context();
  check_library(EVP_DigestInit_ex(all.get(), EVP_sha256(), nullptr) == 1);
  add(all.get(), owner.identity);
  add(all.get(), owner.salt);
  add(all.get(), &owner.rope_table, sizeof(owner.rope_table));
  std::vector<PrefixKey> keys;
  keys.reserve(cuts.size());
  int64_t done = 0;
  for (const int64_t cut : cuts) {
    const auto more = tokens.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(cut - done));
    add(all.get(), more.data(), more.size_bytes());
    done = cut;
    PrefixKey& key = keys.emplace_back();
    key.tokens = cut;
    check_library(EVP_MD_CTX_copy_ex(part.get(), all.get()) == 1);
    check_library(
        EVP_DigestFinal_ex(part.get(), reinterpret_cast<unsigned char*>(key.digest.data()), nullptr) == 1);
  }
  return keys;
}

PrefixDigest salt_digest(std::string_view salt) {
  constexpr std::array kNone = {int64_t{0}};
  return prefix_keys({.identity = "salt", .salt = salt}, {}, kNone)[0].digest;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

}  // namespace shadowkv
