#include "formats/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "formats/json.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little,
              "safetensors files are read as they lie, little-endian");

constexpr int64_t kLargestHeader = 25'000'000;  // bytes; a model of 100,000 tensors needs about 15 million
constexpr int64_t kMostHeaderValues = int64_t{1} << 20;  // seven or eight a tensor

struct DTypeEntry {
  std::string_view name;
  int64_t bytes;
  std::optional<Encoding> encoding;
};
constexpr DTypeEntry kDTypes[] = {
    {"F32", 4, Encoding::f32},
    {"F16", 2, Encoding::f16},
    {"BF16", 2, Encoding::bf16},
    {"F64", 8, {}},
    {"I64", 8, {}},
    {"U64", 8, {}},
    {"I32", 4, {}},
    {"U32", 4, {}},
    {"I16", 2, {}},
    {"U16", 2, {}},
    {"I8", 1, {}},
    {"U8", 1, {}},
    {"BOOL", 1, {}},
    {"F8_E4M3", 1, {}},
    {"F8_E5M2", 1, {}},
};

// One entry of the header; `what` names the file and the tensor.
struct Entry {
  SafetensorsTensor tensor;
  int64_t begin = 0;  // bytes from the start of the data
  int64_t end = 0;
};

const Json& field(const Json& object, const char* key, const std::string& what) {
  const auto found = object.find(key);
  require(found != object.end(), "{} has no {}", what, in_quotes(key));
  return *found;
}

int64_t size_from(const Json& value, const std::string& what) {
  require(value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX, "{} holds {}, expected a size",
          what, in_quotes(json_text(value)));
  return value.get<int64_t>();
}

const DTypeEntry& dtype_from(const Json& value, const std::string& what) {
  const std::string name = value.is_string() ? value.get<std::string>() : json_text(value);
  const auto* found = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                   [&](const DTypeEntry& entry) { return entry.name == name; });
  require(found != std::end(kDTypes), "{} is of type {}, which is not known", what, in_quotes(name));
  return *found;
}

Entry read_entry(const std::string& name, const Json& object, const std::string& path) {
  const std::string what = fmt::format("{}: tensor {}", path, in_quotes(name));
  require(object.is_object(), "{} is described by something other than an object", what);
  const DTypeEntry& dtype = dtype_from(field(object, "dtype", what), what);
  Entry entry;
  entry.tensor.name = name;
  entry.tensor.dtype = dtype.name;
  entry.tensor.encoding = dtype.encoding;
  const Json& shape = field(object, "shape", what);
  require(shape.is_array() && shape.size() <= 8, "{}: its shape is not a list of at most 8 sizes", what);
  int64_t bytes = dtype.bytes;
  for (const Json& extent : shape) {
    entry.tensor.shape.push_back(size_from(extent, what));
    bytes = checked_mul(bytes, entry.tensor.shape.back(), what);
  }
  const Json& offsets = field(object, "data_offsets", what);
  require(offsets.is_array() && offsets.size() == 2, "{}: its data_offsets are not a pair", what);
  entry.begin = size_from(offsets[0], what);
  entry.end = size_from(offsets[1], what);
  require(entry.begin <= entry.end && entry.end - entry.begin == bytes,
          "{}: its offsets {} and {} do not hold the {} bytes of its shape", what, entry.begin, entry.end,
          bytes);
  return entry;
}

std::map<std::string, std::string> read_metadata(const Json& object, const std::string& path) {
  require(object.is_object(), "{}: __metadata__ is not an object", path);
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : object.items()) {
    require(value.is_string(), "{}: __metadata__ {} is not a string", path, in_quotes(key));
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

// The header's JSON text; what follows it in the file are the data.
std::string_view header_text(std::span<const std::byte> bytes, const std::string& path) {
  uint64_t length = 0;
  require(bytes.size() >= sizeof(length), "{} is truncated: {} bytes cannot hold a safetensors header", path,
          bytes.size());
  std::memcpy(&length, bytes.data(), sizeof(length));
  require(length <= kLargestHeader,
          "{} is not a safetensors file: it claims a header of {} bytes, at most {} are allowed", path,
          length, kLargestHeader);
  require(length <= bytes.size() - sizeof(length),
          "{} is truncated: its header of {} bytes ends past the file of {} bytes", path, length,
          bytes.size());
  return {reinterpret_cast<const char*>(bytes.data()) + sizeof(length), length};
}

// Sorts by place and demands that each tensor begins where the one before ends, up to the last byte.
void check_tiling(std::vector<Entry>& entries, int64_t size, const std::string& path) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  int64_t end = 0;
  for (const Entry& entry : entries) {
    require(entry.begin == end,
            "{}: tensor {} begins at byte {} of the data and the one before it ends at {}", path,
            in_quotes(entry.tensor.name), entry.begin, end);
    end = entry.end;
  }
  require(end == size, "{}: its tensors take {} bytes and it holds {} bytes of data; is it truncated?", path,
          end, size);
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : path_(path), mapping_(path) {
  const std::string name = path.string();
  const std::string_view text = header_text(mapping_.bytes(), name);
  const JsonDocument document = parse_json(
      text, name, {.bytes = kLargestHeader, .depth = 4, .values = kMostHeaderValues, .unique_keys = true});
  const Json& header = *document;
  require(header.is_object(), "{} is not a safetensors file: its header is not an object", name);
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") {
      metadata_ = read_metadata(value, name);
    } else {
      entries.push_back(read_entry(key, value, name));
    }
  }
  const std::span<const std::byte> data = mapping_.bytes().subspan(sizeof(uint64_t) + text.size());
  check_tiling(entries, static_cast<int64_t>(data.size()), name);
  for (Entry& entry : entries) {
    entry.tensor.data = data.subspan(static_cast<std::size_t>(entry.begin),
                                     static_cast<std::size_t>(entry.end - entry.begin));
    index_.emplace(entry.tensor.name, tensors_.size());
    tensors_.push_back(std::move(entry.tensor));
  }
}

const SafetensorsTensor* SafetensorsFile::find_tensor(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace shadowkv
