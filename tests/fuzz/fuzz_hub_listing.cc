// What a hub answers about a repository. Whatever it says, no name that is taken leads out of its folder.
#include <cstdlib>
#include <filesystem>

#include "fuzz/fuzz.h"
#include "hub/digest.h"
#include "hub/listing.h"
#include "hub/selection.h"

namespace shadowkv::testing {
namespace {

void check_file(const RemoteFile& file) {
  const std::filesystem::path place = (std::filesystem::path("/cache") / file.path).lexically_normal();
  if (place.string() != "/cache/" + file.path || file.size > kMostFileBytes) std::abort();
  if (!file.etag.empty()) take_or_refuse([&] { (void)digest_kind(file.etag, file.path); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  take_or_refuse([&] {
    const Listing listing = parse_listing(text_of(data, size), "the hub's answer");
    std::vector<std::string> names;
    for (const RemoteFile& file : listing.files) {
      check_file(file);
      names.push_back(file.path);
    }
    for (const char* part : {"", "Q8_0", "m.gguf"}) {
      take_or_refuse([&] { (void)select_files(names, {"org/name", "main", part}, "org/name"); });
    }
  });
  return 0;
}

}  // namespace shadowkv::testing
