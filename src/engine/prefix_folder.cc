#include "engine/prefix_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "formats/json.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::string_view kEnding = ".prefix", kPartial = ".partial";
constexpr int64_t kMostNote = 64 << 20, kMostTokens = (int64_t{1} << 31) - 1;

std::optional<PrefixDigest> digest_of(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  PrefixDigest digest{};
  if (text.size() != 2 * digest.size()) return std::nullopt;
  for (std::size_t i = 0; i < digest.size(); ++i) {
    const std::size_t high = kDigits.find(text[2 * i]), low = kDigits.find(text[2 * i + 1]);
    if (high == std::string_view::npos || low == std::string_view::npos) return std::nullopt;
    digest[i] = static_cast<std::byte>(16 * high + low);
  }
  return digest;
}

// Of files that are its own; nothing for all others, which it leaves alone.
std::optional<PrefixDigest> name_in(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.ends_with(kEnding)) return std::nullopt;
  return digest_of(std::string_view(name).substr(0, name.size() - kEnding.size()));
}

std::string message_of(int error) {
  return std::generic_category().message(error);
}

// The folder of a model and configuration, made where it is not there.
fs::path make_folder(const fs::path& folder, std::string_view identity) {
  const std::vector<PrefixKey> key =
      prefix_keys({.identity = identity, .salt = {}}, {}, std::array{int64_t{0}});
  fs::path made = folder / hex(std::span(key[0].digest).first(8));
  std::error_code error;
  fs::create_directories(made, error);
  require(!error, "no prompts are kept in {}: {}", printable(folder.string(), 400), error.message());
  fs::permissions(made, fs::perms::owner_all, error);  // what is said there is its owner's
  return made;
}

int lock(const fs::path& folder) {
  const std::string name = printable(folder.string(), 400);
  const int file = open((folder / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  require(file >= 0, "no prompts are kept in {}: {}", name, message_of(errno));
  if (flock(file, LOCK_EX | LOCK_NB) == 0) return file;
  const int error = errno;
  (void)FileDescriptor(file).close();
  require(error != EWOULDBLOCK, "no prompts are kept in {}: it serves another service; give each its own",
          name);
  throw InvalidInput(fmt::format("no prompts are kept in {}: {}", name, message_of(error)));
}

const Json& field(const Json& note, const char* key, Json::value_t type, const std::string& file) {
  const auto found = note.find(key);
  const bool is_there =
      found != note.end() &&
      (found->type() == type || (type == Json::value_t::number_integer && found->is_number_unsigned()));
  require(is_there, "{} is damaged: its note has no {}", file, key);
  return *found;
}

int64_t count_in(const Json& value, const std::string& file) {
  require(value.is_number_integer(), "{} is damaged: {} is no number of tokens", file, json_text(value));
  const bool is_large =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kMostTokens);
  const int64_t count = is_large ? -1 : value.get<int64_t>();
  require(count >= 0 && count <= kMostTokens, "{} is damaged: {} is no number of tokens", file,
          json_text(value));
  return count;
}

PrefixDigest digest_in(const Json& value, const std::string& file) {
  const std::optional<PrefixDigest> digest =
      value.is_string() ? digest_of(value.get_ref<const std::string&>()) : std::nullopt;
  require(digest.has_value(), "{} is damaged: {} is no key", file, json_text(value));
  return *digest;
}

// Ascending, the last one that of all tokens.
void check_note(const PrefixNote& note, int64_t tokens, const std::string& file) {
  const auto ascend = [](int64_t a, int64_t b) { return a >= b; };
  const bool is_cut = !note.parts.empty() && note.parts.back() == tokens && note.parts.front() > 0 &&
                      std::ranges::adjacent_find(note.parts, ascend) == note.parts.end();
  require(is_cut && note.shared < tokens, "{} is damaged: its note says parts that its length has not", file);
  const bool is_named = std::ranges::any_of(
      note.keys, [&](const PrefixKey& key) { return key.tokens == tokens && key.digest == note.name; });
  const bool is_short = std::ranges::all_of(
      note.keys, [&](const PrefixKey& key) { return key.tokens >= 1 && key.tokens <= tokens; });
  require(is_named && is_short, "{} is damaged: its note says keys that its length has not", file);
}

// The content begins with ids, then the note.
PrefixFile read_file(const fs::path& path, const PrefixDigest& name) {
  const StateReader reader(path);
  const StateDescription& kept = reader.description();
  const int64_t ids = kept.ids * static_cast<int64_t>(sizeof(int32_t));
  const int64_t head = std::min(round_up(ids + kept.note_bytes, kStateBlockBytes), reader.content_bytes());
  std::vector<std::byte> bytes(static_cast<std::size_t>(head));
  ThreadPool alone(1);
  reader.read(0, bytes, alone);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + ids,
                              static_cast<std::size_t>(kept.note_bytes));
  PrefixFile file{.note = parse_prefix_note(text, reader.name()),
                  .tokens = kept.tokens,
                  .bytes = static_cast<int64_t>(fs::file_size(path)),
                  .used = fs::last_write_time(path)};
  require(file.note.name == name, "{} is damaged: it was written under another name", reader.name());
  check_note(file.note, file.tokens, reader.name());
  return file;
}

}  // namespace

std::string text_of(const PrefixNote& note) {
  Json keys = Json::array();
  for (const PrefixKey& key : note.keys) keys.push_back(Json::array({key.tokens, hex(key.digest)}));
  return Json{{"name", hex(note.name)}, {"tenant", hex(note.tenant)}, {"parent", hex(note.parent)},
              {"shared", note.shared},  {"parts", note.parts},        {"keys", std::move(keys)}}
      .dump();
}

PrefixNote parse_prefix_note(std::string_view text, const std::string& file) {
  const JsonDocument parsed = parse_json(text, file, {.bytes = kMostNote, .depth = 4});
  require(parsed->is_object(), "{} is damaged: its note is no JSON object", file);
  PrefixNote note;
  note.name = digest_in(field(*parsed, "name", Json::value_t::string, file), file);
  note.tenant = digest_in(field(*parsed, "tenant", Json::value_t::string, file), file);
  note.parent = digest_in(field(*parsed, "parent", Json::value_t::string, file), file);
  note.shared = count_in(field(*parsed, "shared", Json::value_t::number_integer, file), file);
  for (const Json& part : field(*parsed, "parts", Json::value_t::array, file))
    note.parts.push_back(count_in(part, file));
  for (const Json& key : field(*parsed, "keys", Json::value_t::array, file)) {
    require(key.is_array() && key.size() == 2, "{} is damaged: {} is no key", file, json_text(key));
    note.keys.push_back({.tokens = count_in(key[0], file), .digest = digest_in(key[1], file)});
  }
  return note;
}

PrefixFolder::PrefixFolder(const fs::path& folder, std::string_view identity)
    : folder_(make_folder(folder, identity)), lock_(lock(folder_)) {}

// Files that were not finished are of services that have ended.
std::vector<PrefixFile> PrefixFolder::read(const std::function<void(const std::string&)>& tell) const {
  std::vector<PrefixFile> files;
  std::error_code error;
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder_, error)) paths.push_back(entry.path());
  for (const fs::path& path : paths) {
    if (path.string().ends_with(kPartial)) fs::remove(path, error);
    const std::optional<PrefixDigest> name = name_in(path);
    if (!name) continue;
    try {
      files.push_back(read_file(path, *name));
    } catch (const std::exception& failure) {
      fs::remove(path, error);
      tell(fmt::format("{}; the file is removed", failure.what()));
    }
  }
  std::ranges::sort(files, {}, &PrefixFile::used);
  return files;
}

fs::path PrefixFolder::path_of(const PrefixDigest& name) const {
  return folder_ / fmt::format("{}{}", hex(name), kEnding);
}

int64_t PrefixFolder::bytes_of(const PrefixDigest& name) const noexcept {
  std::error_code error;
  const auto bytes = fs::file_size(path_of(name), error);
  return error ? 0 : static_cast<int64_t>(bytes);
}

void PrefixFolder::touch(const PrefixDigest& name) const noexcept {
  std::error_code ignored;
  fs::last_write_time(path_of(name), fs::file_time_type::clock::now(), ignored);
}

void PrefixFolder::remove(const PrefixDigest& name) const noexcept {
  std::error_code ignored;
  fs::remove(path_of(name), ignored);
}

}  // namespace shadowkv
