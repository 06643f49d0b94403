#include "formats/state_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/checksum.h"
#include "formats/json.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

using Json = nlohmann::json;

constexpr std::array<char, 8> kMagic = {'S', 'K', 'V', 'S', 'T', 'A', 'T', 'E'};
constexpr uint32_t kVersion = 1;
constexpr int64_t kMostDescription = 4 << 20, kMostContent = int64_t{1} << 50;
constexpr int64_t kMostTokens = (int64_t{1} << 31) - 1, kMostNote = 64 << 20;
constexpr int64_t kChecksumBytes = sizeof(uint64_t);
// What a checksum is of; blocks count from 0.
constexpr uint64_t kOfHeader = ~uint64_t{0}, kOfDescription = kOfHeader - 1;

struct Header {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kVersion;
  uint32_t block_bytes = static_cast<uint32_t>(kStateBlockBytes);
  int64_t description_bytes = 0;
  int64_t content_bytes = 0;
  uint64_t description_sum = 0;
  uint64_t sum = 0;  // of all before

  [[nodiscard]] uint64_t found() const {
    return checksum(std::as_bytes(std::span(this, 1)).first(offsetof(Header, sum)), kOfHeader);
  }
};
static_assert(sizeof(Header) == 48);

std::string message_of(int error) {
  return std::generic_category().message(error);
}

std::string name_of(const std::filesystem::path& path) {
  return printable(path.string(), 400);
}

// False at the file's end.
bool read_at(const FileDescriptor& file, int64_t offset, std::span<std::byte> to,
             const std::filesystem::path& path) {
  while (!to.empty()) {
    const ssize_t count = pread(file.number(), to.data(), to.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      throw DeviceFailure(fmt::format("reading {} failed: {}", name_of(path), message_of(errno)));
    if (count == 0) return false;
    offset += count;
    to = to.subspan(static_cast<std::size_t>(count));
  }
  return true;
}

int open_to_read(const std::filesystem::path& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  require(file >= 0, "cannot read {}: {}", name_of(path), message_of(errno));
  return file;
}

int64_t integer(const Json& from, const char* key, int64_t least, int64_t most, std::string_view file) {
  const auto found = from.find(key);
  require(found != from.end() && found->is_number_integer(), "{} is damaged: its description has no {}", file,
          key);
  const bool is_large = found->is_number_unsigned() && found->get<uint64_t>() > uint64_t{1} << 62;
  const int64_t value = is_large ? -1 : found->get<int64_t>();
  require(value >= least && value <= most, "{} is damaged: its description says {} = {}", file, key,
          json_text(*found));
  return value;
}

std::string text(const Json& from, const char* key, std::string_view file) {
  const auto found = from.find(key);
  require(found != from.end() && found->is_string(), "{} is damaged: its description has no {}", file, key);
  return found->get<std::string>();
}

std::vector<int64_t> numbers_of(const Json& from, std::string_view file) {
  const auto found = from.find("numbers");
  require(found != from.end() && found->is_array(), "{} is damaged: its description has no numbers", file);
  std::vector<int64_t> numbers;
  numbers.reserve(found->size());
  for (const Json& number : *found) {
    require(number.is_number_integer() && number.get<int64_t>() >= 0, "{} is damaged: {} is no number of it",
            file, json_text(number));
    numbers.push_back(number.get<int64_t>());
  }
  return numbers;
}

StateDescription parse_description(std::string_view json, const std::string& file) {
  const JsonDocument parsed = parse_json(json, file, {.bytes = kMostDescription, .depth = 4});
  require(parsed->is_object(), "{} is damaged: its description is no JSON object", file);
  StateDescription d;
  d.model = text(*parsed, "model", file);
  d.fingerprint = text(*parsed, "fingerprint", file);
  d.dtype = text(*parsed, "dtype", file);
  d.attention = text(*parsed, "attention", file);
  d.tokens = integer(*parsed, "tokens", 1, kMostTokens, file);
  d.ids = integer(*parsed, "ids", d.tokens, kMostTokens, file);
  d.note_bytes = integer(*parsed, "note_bytes", 0, kMostNote, file);
  d.numbers = numbers_of(*parsed, file);
  return d;
}

// Names may hold any bytes.
std::string as_json(const StateDescription& d) {
  const Json json = {{"model", d.model},           {"fingerprint", d.fingerprint}, {"dtype", d.dtype},
                     {"attention", d.attention},   {"tokens", d.tokens},           {"ids", d.ids},
                     {"note_bytes", d.note_bytes}, {"numbers", d.numbers}};
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

int64_t blocks_of(int64_t content_bytes) {
  return ceil_div(content_bytes, kStateBlockBytes);
}

int64_t block_offset(int64_t content_at, int64_t block) {
  return content_at + block * (kStateBlockBytes + kChecksumBytes);
}

// Calls work(block, its bytes of `part`) for each of them, in parallel.
template <typename Bytes, typename Work>
void for_blocks(int64_t first, Bytes part, ThreadPool& threads, const Work& work) {
  const auto size = static_cast<int64_t>(part.size());
  threads.for_each(blocks_of(size), [&](int64_t i) {
    const int64_t at = i * kStateBlockBytes, count = std::min(kStateBlockBytes, size - at);
    work(first + i, part.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count)));
  });
}

}  // namespace

bool FileDescriptor::close() noexcept {
  const int number = std::exchange(number_, -1);
  return number < 0 || ::close(number) == 0;
}

// ---- reading ----------------------------------------------------------------------------------------------

StateReader::StateReader(std::filesystem::path path) : path_(std::move(path)), file_(open_to_read(path_)) {
  check_header();
}

std::string StateReader::name() const {
  return name_of(path_);
}

int64_t StateReader::blocks() const {
  return blocks_of(content_bytes_);
}

void StateReader::check_header() {
  const std::string file = name_of(path_);
  struct stat status {};
  require(fstat(file_.number(), &status) == 0 && S_ISREG(status.st_mode),
          "cannot read {}: it is no regular file", file);
  Header header;
  const bool is_whole = read_at(file_, 0, std::as_writable_bytes(std::span(&header, 1)), path_);
  require(is_whole && header.magic == kMagic, "{} is no saved state", file);
  require(header.version <= kVersion,
          "{} is a saved state of version {}, this program reads up to {}; take a newer one", file,
          header.version, kVersion);
  require(
      header.sum == header.found() && header.version == kVersion && header.block_bytes == kStateBlockBytes,
      "{} is damaged: the checksum of its header differs", file);
  const int64_t description = header.description_bytes, content = header.content_bytes;
  require(description >= 0 && description <= kMostDescription && content >= 0 && content <= kMostContent,
          "{} is damaged: it says that {} bytes of description and {} of content follow", file, description,
          content);
  content_at_ = static_cast<int64_t>(sizeof(Header)) + description;
  content_bytes_ = content;
  const int64_t size = content_at_ + content + blocks() * kChecksumBytes;
  require(status.st_size == size, "{} has {} bytes, a saved state of its kind {}: it is cut short or damaged",
          file, static_cast<int64_t>(status.st_size), size);
  std::string json(static_cast<std::size_t>(description), '\0');
  require(read_at(file_, sizeof(Header), std::as_writable_bytes(std::span(json)), path_) &&
              checksum(std::as_bytes(std::span(json)), kOfDescription) == header.description_sum,
          "{} is damaged: the checksum of its description differs", file);
  description_ = parse_description(json, file);
  const int64_t named = description_.ids * static_cast<int64_t>(sizeof(int32_t)) + description_.note_bytes;
  require(named <= content, "{} is damaged: its content of {} bytes is to begin with {}", file, content,
          named);
}

void StateReader::will_read() const noexcept {
  (void)posix_fadvise(file_.number(), 0, 0, POSIX_FADV_WILLNEED);
}

void StateReader::read(int64_t first, std::span<std::byte> to, ThreadPool& threads) const {
  for_blocks(first, to, threads, [&](int64_t block, std::span<std::byte> bytes) {
    uint64_t sum = 0;
    const int64_t at = block_offset(content_at_, block);
    const bool is_whole = read_at(file_, at, std::as_writable_bytes(std::span(&sum, 1)), path_) &&
                          read_at(file_, at + kChecksumBytes, bytes, path_);
    require(is_whole && checksum(bytes, static_cast<uint64_t>(block)) == sum,
            "{} is damaged: the checksum of block {} differs, of {} bytes at {}", name_of(path_), block,
            bytes.size(), at);
  });
}

// ---- writing ----------------------------------------------------------------------------------------------

namespace {

// Of a conversation, so for its owner's eyes.
int open_to_write(const std::filesystem::path& path, const std::filesystem::path& temporary) {
  std::error_code ignored;
  require(!std::filesystem::is_directory(path, ignored), "cannot write {}: it is a folder; name a file",
          name_of(path));
  const int file = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  require(file >= 0, "cannot write {}: {}; choose another place", name_of(path), message_of(errno));
  return file;
}

// So that the new name is on the disk too; a file system that cannot is not asked twice.
void sync_folder(const std::filesystem::path& path) {
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  const FileDescriptor folder(open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.number() >= 0) (void)fsync(folder.number());
}

}  // namespace

StateWriter::StateWriter(std::filesystem::path path, const StateDescription& description,
                         int64_t content_bytes)
    : path_(std::move(path)),
      temporary_(fmt::format("{}.{}.partial", path_.string(), getpid())),
      file_(open_to_write(path_, temporary_)) {
  const std::string json = as_json(description);
  Header header;
  header.description_bytes = std::ssize(json);
  header.content_bytes = content_bytes;
  header.description_sum = checksum(std::as_bytes(std::span(json)), kOfDescription);
  header.sum = header.found();
  content_at_ = static_cast<int64_t>(sizeof(Header)) + std::ssize(json);
  try {
    require(std::ssize(json) <= kMostDescription, "the state cannot be saved: its description has {} bytes",
            json.size());
    write_at(0, std::as_bytes(std::span(&header, 1)));
    write_at(sizeof(Header), std::as_bytes(std::span(json)));
  } catch (...) {
    (void)unlink(temporary_.c_str());
    throw;
  }
}

StateWriter::~StateWriter() {
  if (!is_committed_) (void)unlink(temporary_.c_str());
}

void StateWriter::fail(int error) const {
  throw DeviceFailure(fmt::format("writing {} failed: {}", name_of(path_), message_of(error)));
}

void StateWriter::write_at(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = pwrite(file_.number(), bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(count < 0 ? errno : ENOSPC);
    offset += count;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void StateWriter::write(int64_t first, std::span<const std::byte> from, ThreadPool& threads) {
  for_blocks(first, from, threads, [&](int64_t block, std::span<const std::byte> bytes) {
    const uint64_t sum = checksum(bytes, static_cast<uint64_t>(block));
    const int64_t at = block_offset(content_at_, block);
    write_at(at, std::as_bytes(std::span(&sum, 1)));
    write_at(at + kChecksumBytes, bytes);
  });
}

void StateWriter::commit() {
  if (fsync(file_.number()) != 0) fail(errno);
  if (!file_.close()) fail(errno);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail(errno);
  is_committed_ = true;
  sync_folder(path_);
}

}  // namespace shadowkv
