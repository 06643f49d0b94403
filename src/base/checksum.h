// A fast checksum of 64 bits against damage, not against forgery: other bytes within one aligned word of
// eight always give another one, anything else with a chance of 2^-64 as good as.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace shadowkv {

// seed: what the bytes are, so that they count for nothing in another's place.
[[nodiscard]] uint64_t checksum(std::span<const std::byte> bytes, uint64_t seed);

}  // namespace shadowkv
