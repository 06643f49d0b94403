#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <unordered_map>

#include "base/check.h"
#include "formats/mapped_file.h"
#include "formats/quote.h"

namespace shadowkv {

struct GgufFile::Contents {
  std::filesystem::path path;
  MappedFile mapping;
  std::map<std::string, Value, std::less<>> values;
  std::vector<GgufTensor> tensors;
  std::unordered_map<std::string_view, std::size_t> tensor_index;  // name -> place in tensors
};

namespace {

using Value = GgufFile::Value;

static_assert(std::endian::native == std::endian::little, "GGUF files are read as they lie, little-endian");

// Bounds on what a file may claim, far above any real model, so that a lying file cannot ask for memory.
constexpr uint64_t kLongestName = 65535;               // bytes of a key or a tensor's name
constexpr uint64_t kLongestArray = uint64_t{1} << 24;  // elements
constexpr uint64_t kMostDimensions = 4;
constexpr uint64_t kMostTensors = uint64_t{1} << 16;
constexpr uint64_t kMostValues = uint64_t{1} << 16;
// Of memory for all metadata together, however large the file: the largest vocabularies take a third of it.
constexpr uint64_t kMostMetadataBytes = uint64_t{96} << 20;
constexpr int64_t kDefaultAlignment = 32;  // bytes, unless general.alignment says otherwise

// GGUF's numbers for the types of metadata values.
enum class ValueType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// Least bytes that one value of the type takes; 0 for a type the format does not have.
uint64_t least_bytes(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean:
      return 1;
    case ValueType::u16:
    case ValueType::i16:
      return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32:
      return 4;
    case ValueType::string:
    case ValueType::u64:
    case ValueType::i64:
    case ValueType::f64:
      return 8;
    case ValueType::array:
      return 12;
  }
  return 0;
}

// Reads the file front to back; every read is checked against what is left.
class Cursor {
 public:
  Cursor(const std::string& path, std::span<const std::byte> bytes) : path_(path), bytes_(bytes) {}

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::size_t position() const { return position_; }
  [[nodiscard]] uint64_t left() const { return bytes_.size() - position_; }

  std::span<const std::byte> take(uint64_t count, std::string_view what) {
    require(count <= left(),
            "{} is truncated: {} at byte {} needs {} bytes and the file of {} bytes has {} left", path_, what,
            position_, count, bytes_.size(), left());
    const auto part = bytes_.subspan(position_, count);
    position_ += count;
    return part;
  }

  template <typename T>
  T read(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string read_string(std::string_view what) {
    const auto length = read<uint64_t>(what);
    const auto text = take(length, what);
    keep(length, what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  // Before so many bytes of the file are kept in memory.
  void keep(uint64_t bytes, std::string_view what) {
    require(bytes <= kMostMetadataBytes - kept_,
            "{}: with {} its metadata are larger than {} bytes of memory, "
            "which are supported",
            path_, what, kMostMetadataBytes);
    kept_ += bytes;
  }

  std::string read_name(std::string_view what) {
    std::string name = read_string(what);
    require(!name.empty() && name.size() <= kLongestName,
            "{}: {} has a name of {} bytes, 1 to {} are allowed", path_, what, name.size(), kLongestName);
    return name;
  }

  // A count of things that take at least `least` bytes each, refused when the file cannot hold them.
  uint64_t read_count(uint64_t least, std::string_view what) {
    const auto count = read<uint64_t>(what);
    require(count <= left() / least,
            "{} is truncated or damaged: the file of {} bytes claims {} {} and has {} bytes left", path_,
            bytes_.size(), count, what, left());
    return count;
  }

 private:
  const std::string& path_;
  std::span<const std::byte> bytes_;
  std::size_t position_ = 0;
  uint64_t kept_ = 0;
};

// Below, `what` is the key of the value being read, in quotes.
int64_t read_integer(Cursor& in, ValueType type, std::string_view what) {
  switch (type) {
    case ValueType::u8:
      return in.read<uint8_t>(what);
    case ValueType::i8:
      return in.read<int8_t>(what);
    case ValueType::u16:
      return in.read<uint16_t>(what);
    case ValueType::i16:
      return in.read<int16_t>(what);
    case ValueType::u32:
      return in.read<uint32_t>(what);
    case ValueType::i32:
      return in.read<int32_t>(what);
    case ValueType::u64: {
      const auto value = in.read<uint64_t>(what);
      require(value <= INT64_MAX, "{}: {} is {}, integers up to {} are supported", in.path(), what, value,
              INT64_MAX);
      return static_cast<int64_t>(value);
    }
    default:
      return in.read<int64_t>(what);
  }
}

double read_real(Cursor& in, ValueType type, std::string_view what) {
  return type == ValueType::f32 ? static_cast<double>(in.read<float>(what)) : in.read<double>(what);
}

bool read_boolean(Cursor& in, std::string_view what) {
  const auto byte = in.read<uint8_t>(what);
  require(byte <= 1, "{}: {} is a truth value of {}, 0 or 1 are allowed", in.path(), what, byte);
  return byte == 1;
}

ValueType read_value_type(Cursor& in, std::string_view what) {
  const auto type = in.read<ValueType>(what);
  require(least_bytes(type) > 0, "{}: {} has value type {}, which GGUF does not have", in.path(), what,
          static_cast<uint32_t>(type));
  return type;
}

template <typename T, typename Read>
std::vector<T> read_elements(Cursor& in, std::string_view what, uint64_t count, Read read) {
  in.keep(count * sizeof(T), what);
  std::vector<T> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) values.push_back(read());
  return values;
}

Value read_array(Cursor& in, std::string_view what) {
  const ValueType type = read_value_type(in, what);
  require(type != ValueType::array, "{}: {} is an array of arrays, which is not supported", in.path(), what);
  const uint64_t count = in.read_count(least_bytes(type), fmt::format("elements of {}", what));
  require(count <= kLongestArray, "{}: {} has {} elements, at most {} are supported", in.path(), what, count,
          kLongestArray);
  switch (type) {
    case ValueType::string:
      return read_elements<std::string>(in, what, count, [&] { return in.read_string(what); });
    case ValueType::f32:
    case ValueType::f64:
      return read_elements<double>(in, what, count, [&] { return read_real(in, type, what); });
    case ValueType::boolean:
      return read_elements<int64_t>(in, what, count, [&] { return int64_t{read_boolean(in, what)}; });
    default:
      return read_elements<int64_t>(in, what, count, [&] { return read_integer(in, type, what); });
  }
}

Value read_value(Cursor& in, std::string_view what) {
  const ValueType type = read_value_type(in, what);
  switch (type) {
    case ValueType::string:
      return in.read_string(what);
    case ValueType::array:
      return read_array(in, what);
    case ValueType::f32:
    case ValueType::f64:
      return read_real(in, type, what);
    case ValueType::boolean:
      return read_boolean(in, what);
    default:
      return read_integer(in, type, what);
  }
}

struct Header {
  uint64_t tensors = 0;
  uint64_t values = 0;
};

Header read_header(Cursor& in) {
  constexpr uint64_t kLeastTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;  // name, dimensions, one extent, type, offset
  constexpr uint64_t kLeastValueBytes = 8 + 1 + 4 + 1;           // key, type, one byte
  const auto magic = in.take(4, "the magic");
  require(std::memcmp(magic.data(), "GGUF", 4) == 0, "{} is not a GGUF file: it does not begin with \"GGUF\"",
          in.path());
  const auto version = in.read<uint32_t>("the version");
  require(version != 0x03000000u, "{} is a big-endian GGUF file, only little-endian ones are supported",
          in.path());
  require(version == 3, "{} is GGUF version {}, only version 3 is supported; convert the model again",
          in.path(), version);
  Header header;
  header.tensors = in.read_count(kLeastTensorBytes, "tensors");
  require(header.tensors <= kMostTensors, "{} claims {} tensors, at most {} are supported", in.path(),
          header.tensors, kMostTensors);
  header.values = in.read_count(kLeastValueBytes, "metadata values");
  require(header.values <= kMostValues, "{} claims {} metadata values, at most {} are supported", in.path(),
          header.values, kMostValues);
  return header;
}

// A tensor as its header describes it, before its data are looked for.
struct Entry {
  GgufTensor tensor;
  int64_t offset = 0;  // from the start of the data, in bytes
  int64_t bytes = 0;
};

std::vector<int64_t> read_shape(Cursor& in, std::string_view what) {
  const auto rank = in.read<uint32_t>(what);
  require(rank >= 1 && rank <= kMostDimensions, "{}: {} has {} dimensions, 1 to {} are supported", in.path(),
          what, rank, kMostDimensions);
  std::vector<int64_t> shape;
  for (uint32_t i = 0; i < rank; ++i) {
    const auto extent = in.read<uint64_t>(what);
    require(extent >= 1 && extent <= INT64_MAX, "{}: {} has an extent of {}", in.path(), what, extent);
    shape.push_back(static_cast<int64_t>(extent));
  }
  std::reverse(shape.begin(), shape.end());  // the file has the innermost first
  return shape;
}

int64_t tensor_bytes(const std::string& path, const GgufTensor& tensor) {
  const BlockLayout block = layout_of(tensor.type);
  const int64_t columns = tensor.shape.back();
  require(columns % block.elements == 0,
          "{}: tensor {} of type {} has rows of {} numbers, not a multiple of {}", path,
          in_quotes(tensor.name), name_of(tensor.type), columns, block.elements);
  const std::string what = fmt::format("{}: the size of tensor {}", path, in_quotes(tensor.name));
  int64_t bytes = checked_mul(columns / block.elements, block.bytes, what);
  for (std::size_t i = 0; i + 1 < tensor.shape.size(); ++i) bytes = checked_mul(bytes, tensor.shape[i], what);
  return bytes;
}

Entry read_entry(Cursor& in, int64_t alignment) {
  Entry entry;
  entry.tensor.name = in.read_name("a tensor's name");
  const std::string what = fmt::format("tensor {}", in_quotes(entry.tensor.name));
  entry.tensor.shape = read_shape(in, what);
  const auto type = in.read<uint32_t>(what);
  require(is_supported_gguf_type(type), "{}: {} is of type {}, supported are {}", in.path(), what,
          gguf_type_name(type), supported_gguf_types());
  entry.tensor.type = static_cast<GgufType>(type);
  entry.bytes = tensor_bytes(in.path(), entry.tensor);
  const auto offset = in.read<uint64_t>(what);
  require(offset <= INT64_MAX && offset % static_cast<uint64_t>(alignment) == 0,
          "{}: {} begins at offset {}, not a multiple of the alignment {}", in.path(), what, offset,
          alignment);
  entry.offset = static_cast<int64_t>(offset);
  return entry;
}

void refuse_overlaps(const std::string& path, const std::vector<Entry>& entries) {
  std::vector<const Entry*> sorted;
  sorted.reserve(entries.size());
  for (const Entry& entry : entries) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(),
            [](const Entry* a, const Entry* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    const Entry& before = *sorted[i - 1];
    require(before.offset + before.bytes <= sorted[i]->offset, "{}: tensors {} and {} overlap at offset {}",
            path, in_quotes(before.tensor.name), in_quotes(sorted[i]->tensor.name), sorted[i]->offset);
  }
}

// Points every tensor at its bytes, which must lie within `data` and apart from each other. After the last
// there is nothing but padding.
std::vector<GgufTensor> place(const std::string& path, std::vector<Entry> entries,
                              std::span<const std::byte> data, int64_t alignment) {
  const auto size = static_cast<int64_t>(data.size());
  int64_t end = 0;
  for (Entry& entry : entries) {
    require(entry.offset <= size && entry.bytes <= size - entry.offset,
            "{} is truncated: tensor {} takes {} bytes from offset {} and there are {} bytes of data", path,
            in_quotes(entry.tensor.name), entry.bytes, entry.offset, size);
    entry.tensor.data =
        data.subspan(static_cast<std::size_t>(entry.offset), static_cast<std::size_t>(entry.bytes));
    end = std::max(end, entry.offset + entry.bytes);
  }
  refuse_overlaps(path, entries);
  require(size <= round_up(end, alignment),
          "{} has {} bytes of data, its tensors take {}; the file is damaged", path, size, end);
  std::vector<GgufTensor> tensors;
  tensors.reserve(entries.size());
  for (Entry& entry : entries) tensors.push_back(std::move(entry.tensor));
  return tensors;
}

int64_t alignment_of(const std::string& path, const Value* value) {
  if (!value) return kDefaultAlignment;
  const auto* alignment = std::get_if<int64_t>(value);
  require(alignment && *alignment >= 8 && *alignment <= (1 << 20) && (*alignment & (*alignment - 1)) == 0,
          "{}: general.alignment must be a power of two from 8 to 1048576", path);
  return *alignment;
}

std::string_view kind_of(const Value& value) {
  constexpr std::string_view kKinds[] = {
      "an integer",          "a number",           "a truth value", "a string", "an array of integers",
      "an array of numbers", "an array of strings"};
  return kKinds[value.index()];
}

// The stored value as T, or nothing: integers also read as double, one by one or in an array.
template <typename T>
const T* stored_as(const Value& value, T& /*converted*/) {
  return std::get_if<T>(&value);
}
template <>
const double* stored_as(const Value& value, double& converted) {
  const auto* integer = std::get_if<int64_t>(&value);
  if (!integer) return std::get_if<double>(&value);
  converted = static_cast<double>(*integer);
  return &converted;
}
template <>
const std::vector<double>* stored_as(const Value& value, std::vector<double>& converted) {
  const auto* integers = std::get_if<std::vector<int64_t>>(&value);
  if (!integers) return std::get_if<std::vector<double>>(&value);
  for (const int64_t integer : *integers) converted.push_back(static_cast<double>(integer));
  return &converted;
}

}  // namespace

bool starts_like_gguf(const std::filesystem::path& path) {
  std::array<char, 4> magic{};
  std::ifstream file(path, std::ios::binary);
  file.read(magic.data(), magic.size());
  return file.gcount() == 4 && std::string_view(magic.data(), magic.size()) == "GGUF";
}

GgufFile::GgufFile(const std::filesystem::path& path)
    : contents_(new Contents{path, MappedFile(path), {}, {}, {}}) {
  const std::string name = path.string();
  const std::span<const std::byte> bytes = contents_->mapping.bytes();
  Cursor in(name, bytes);
  const Header header = read_header(in);
  for (uint64_t i = 0; i < header.values; ++i) {
    const std::string key = in.read_name("a metadata key");
    const bool is_new = contents_->values.emplace(key, read_value(in, in_quotes(key))).second;
    require(is_new, "{}: the metadata key {} appears twice", name, in_quotes(key));
  }
  const int64_t alignment = alignment_of(name, find("general.alignment"));
  std::vector<Entry> entries;
  entries.reserve(header.tensors);
  for (uint64_t i = 0; i < header.tensors; ++i) entries.push_back(read_entry(in, alignment));
  const auto start = static_cast<std::size_t>(round_up(static_cast<int64_t>(in.position()), alignment));
  contents_->tensors =
      place(name, std::move(entries), bytes.subspan(std::min(start, bytes.size())), alignment);
  for (const GgufTensor& tensor : contents_->tensors) {
    const bool is_new = contents_->tensor_index.emplace(tensor.name, contents_->tensor_index.size()).second;
    require(is_new, "{}: the tensor {} appears twice", name, in_quotes(tensor.name));
  }
}

GgufFile::~GgufFile() = default;
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;

const std::filesystem::path& GgufFile::path() const {
  return contents_->path;
}

const GgufFile::Value* GgufFile::find(std::string_view key) const {
  const auto found = contents_->values.find(key);
  return found == contents_->values.end() ? nullptr : &found->second;
}

template <typename T>
T GgufFile::get(std::string_view key) const {
  const Value* value = find(key);
  require(value != nullptr, "{} has no metadata key {}", path().string(), in_quotes(key));
  T converted{};
  const T* stored = stored_as<T>(*value, converted);
  require(stored != nullptr, "{}: {} is {}, expected {}", path().string(), in_quotes(key), kind_of(*value),
          kind_of(Value(T{})));
  return *stored;
}

template int64_t GgufFile::get(std::string_view) const;
template double GgufFile::get(std::string_view) const;
template bool GgufFile::get(std::string_view) const;
template std::string GgufFile::get(std::string_view) const;
template std::vector<int64_t> GgufFile::get(std::string_view) const;
template std::vector<double> GgufFile::get(std::string_view) const;
template std::vector<std::string> GgufFile::get(std::string_view) const;

std::span<const GgufTensor> GgufFile::tensors() const {
  return contents_->tensors;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto found = contents_->tensor_index.find(name);
  return found == contents_->tensor_index.end() ? nullptr : &contents_->tensors[found->second];
}

}  // namespace shadowkv
