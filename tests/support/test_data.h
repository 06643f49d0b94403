// Where the files of tests/testdata lie: where the tests were built, or where the environment says.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace shadowkv::testing {

inline std::filesystem::path test_data() {
  const char* elsewhere = std::getenv("SHADOWKV_TEST_FILES");  // NOLINT(concurrency-mt-unsafe)
  return elsewhere == nullptr ? SHADOWKV_TEST_DATA : elsewhere;
}

}  // namespace shadowkv::testing
