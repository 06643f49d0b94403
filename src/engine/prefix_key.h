// What prefixes of a prompt are known by: a SHA-256 of all that decides what is held of their tokens, and of
// all of these. Nobody can make two prompts of one key, and no tenant a key of another's salt.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv {

using PrefixDigest = std::array<std::byte, 32>;

struct PrefixKey {
  int64_t tokens = 0;  // that it stands for
  PrefixDigest digest{};
};

struct PrefixOwner {
  std::string_view identity;  // of model and configuration
  int64_t rope_table = 0;     // that positions turn by
  std::string_view salt;      // of the tenant
};

// Of the first cuts[i] tokens, for all i; cuts ascend and are at most the tokens.
[[nodiscard]] std::vector<PrefixKey> prefix_keys(const PrefixOwner& owner, std::span<const int32_t> tokens,
                                                 std::span<const int64_t> cuts);

// What a salt is known by where it must not be told.
[[nodiscard]] PrefixDigest salt_digest(std::string_view salt);

// Two characters a byte.
[[nodiscard]] std::string hex(std::span<const std::byte> bytes);

}  // namespace shadowkv
