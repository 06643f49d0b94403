// What the fuzz targets share: an input becomes a file, a reader takes it or refuses it in one sentence, and
// whatever else happens is a bug.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string_view>

#include "formats/temporary_file.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {

// Bytes of a message at most: room for a path and a few quoted names.
constexpr std::size_t kLongestMessage = 2000;

// A message goes to a terminal on one line, whatever the file that it quotes.
inline void check_message(std::string_view message) {
  bool is_clear = !message.empty() && message.size() <= kLongestMessage;
  for (const char c : message) is_clear = is_clear && static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
  if (is_clear) return;
  std::fprintf(stderr, "not a one-line message of at most %zu bytes: %.*s\n", kLongestMessage,
               static_cast<int>(message.size()), message.data());
  std::abort();
}

// Runs a reader; only InvalidInput is a refusal.
inline void take_or_refuse(const std::function<void()>& read) {
  try {
    read();
  } catch (const InvalidInput& error) {
    check_message(error.what());
  }
}

inline std::string_view text_of(const uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// The folder that a target's files lie in, gone when the program ends.
inline const TemporaryFolder& folder() {
  static const TemporaryFolder only;
  return only;
}

}  // namespace shadowkv::testing
