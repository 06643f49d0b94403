#include "hub/listing.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "formats/json.h"
#include "formats/quote.h"
#include "hub/names.h"

namespace shadowkv {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMostFiles = 200'000;

const Json* find(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

std::string text_at(const Json& object, std::string_view key) {
  const Json* value = object.is_object() ? find(object, key) : nullptr;
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

// Below 0 where there is no size.
int64_t size_at(const Json& object, std::string_view key, std::string_view path) {
  const Json* value = find(object, key);
  if (value == nullptr || value->is_null()) return -1;
  require(value->is_number_unsigned() && value->get<uint64_t>() <= uint64_t{kMostFileBytes},
          "the hub says that {} has {} bytes, which is no size of a file", printable(path),
          json_text(*value));
  return value->get<int64_t>();
}

// What a large file holds lies elsewhere ("lfs"); the repository has only a note of it.
void read_contents(const Json& entry, RemoteFile& file) {
  const Json* lfs = find(entry, "lfs");
  const bool large = lfs != nullptr && lfs->is_object();
  const Json& place = large ? *lfs : entry;
  file.etag = text_at(place, large ? "sha256" : "blobId");
  file.size = size_at(place, "size", file.path);
  if (file.etag.empty() || file.size < 0) file = RemoteFile{file.path, {}, -1};
}

RemoteFile read_file(const Json& entry, std::string_view name) {
  RemoteFile file{text_at(entry, "rfilename"), {}, -1};
  require(!file.path.empty(), "{} lists a file without a name", name);
  require(is_safe_path(file.path),
          "{} lists the file {}, a name that leads out of its folder or is none; nothing of it is fetched",
          name, in_quotes(file.path));
  read_contents(entry, file);
  return file;
}

}  // namespace

Listing parse_listing(std::string_view json, std::string_view name) {
  const JsonDocument document = parse_json(json, name, {.bytes = int64_t{64} << 20, .depth = 32});
  require(document->is_object(), "{} is no JSON object; check HF_ENDPOINT", name);
  Listing listing{text_at(*document, "sha"), {}};
  require(is_commit(listing.commit), "{} names no commit in \"sha\"; check HF_ENDPOINT", name);
  const Json* siblings = find(*document, "siblings");
  require(siblings != nullptr && siblings->is_array() && siblings->size() <= kMostFiles,
          "{} has no list of files in \"siblings\"; check HF_ENDPOINT", name);
  listing.files.reserve(siblings->size());
  for (const Json& entry : *siblings) listing.files.push_back(read_file(entry, name));
  return listing;
}

}  // namespace shadowkv
