// What the service's thread keeps of prompts on the disk: files are written ahead while there is time, or
// before memory is given to others, and read between steps when a prompt finds them.
#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "engine/model_service.h"
#include "engine/state_transfer.h"

namespace shadowkv {
namespace {

using namespace std::chrono_literals;

// No file is written for so long after one could not be.
constexpr auto kRest = 60s;
constexpr auto kHowever = 24h;  // that it takes

int64_t file_bytes(int64_t content_bytes) {
  return content_bytes + ceil_div(content_bytes, kStateBlockBytes) * static_cast<int64_t>(sizeof(uint64_t));
}

}  // namespace

// ---- the folder -------------------------------------------------------------------------------------------

// Without it the service goes on.
void ModelService::open_disk() {
  try {
    disk_ = std::make_unique<PrefixDisk>(options_.prefix_cache_dir, identity_,
                                         options_.prefix_cache_disk_bytes, [bell = bell_] { bell->ring(); });
  } catch (const InvalidInput& error) {
    return tell_note(error.what());
  }
  std::vector<PrefixFile> files = disk_->folder.read([this](const std::string& line) {
    ++now_.prefix_files_lost;
    tell_note(line);
  });
  for (bool is_news = true; std::exchange(is_news, false);) {  // each after what it begins with
    std::erase_if(files, [&](const PrefixFile& file) {
      const bool is_added = add_file(file);
      is_news = is_news || is_added;
      return is_added;
    });
  }
  for (const PrefixFile& file : files) disk_->folder.remove(file.note.name);  // what it begins with is gone
  while (prefixes_->file_bytes() > disk_->most_bytes) erase_file(*prefixes_->first_file_to_go(std::nullopt));
  count_prefixes();
  publish();
}

// False while what it begins with is not there.
bool ModelService::add_file(const PrefixFile& file) {
  const PrefixNote& note = file.note;
  Prefix prefix{.tokens = file.tokens,
                .parts = note.parts,
                .tier = PrefixTier::disk,
                .file_bytes = file.bytes,
                .name = note.name,
                .tenant = note.tenant};
  if (note.shared > 0) {
    const PrefixKey key{.tokens = file.tokens, .digest = note.parent};
    const std::optional<PrefixPlace> parent = prefixes_->find({&key, 1}, file.tokens);
    if (!parent) return false;
    const Prefix& first = prefixes_->at(parent->id);
    const auto before = [&](std::vector<int64_t> parts) {
      std::erase_if(parts, [&](int64_t end) { return end >= note.shared; });
      return parts;
    };
    const bool is_same =
        first.name == note.parent && note.shared <= first.tokens && before(first.parts) == before(note.parts);
    if (!is_same) return false;  // another that was written under its name since
    prefix.parent = {parent->id, note.shared};
  }
  prefixes_->add(std::move(prefix), note.keys);
  return true;
}

void ModelService::tell_note(const std::string& line) const noexcept {
  try {
    if (options_.on_note) options_.on_note(line);
  } catch (...) {
  }
}

PrefixBeginning ModelService::beginning_of(const Prefix& prefix) const {
  if (prefix.parent.id < 0) return {};
  return {.prefix = prefixes_->at(prefix.parent.id).sequence, .tokens = prefix.parent.tokens};
}

// Older ones go for it.
bool ModelService::make_file_room(PrefixId id, int64_t bytes) {
  while (prefixes_->file_bytes() + bytes > disk_->most_bytes) {
    const std::optional<PrefixId> first = prefixes_->first_file_to_go(id);
    if (!first || (disk_->loading && disk_->loading->id == *first)) return false;
    erase_file(*first);
  }
  return true;
}

// Of one that no other file begins with.
void ModelService::erase_file(PrefixId id) {
  const Prefix& prefix = prefixes_->at(id);
  if (disk_->saving && disk_->saving->id == id) disk_->saving->is_dropped = true;
  disk_->folder.remove(prefix.name);
  prefixes_->set_file(id, 0);
  const bool is_whole = prefix.tier != PrefixTier::disk && !(disk_->loading && disk_->loading->id == id);
  if (is_whole) return;
  leave_prefix(id);
  prefixes_->remove(id);
}

// With those that begin with it. What is in memory stays there.
void ModelService::lose_file(PrefixId id, const std::string& why) {
  ++now_.prefix_files_lost;
  tell_note(why);
  for (const PrefixId each : prefixes_->descendants(id)) {
    if (prefixes_->at(each).file_bytes > 0) erase_file(each);
  }
  erase_file(id);
}

// ---- to the disk ------------------------------------------------------------------------------------------

// Between two steps, without waiting: the first that memory would be taken from, while nobody is answered or
// memory fills. False when there is nothing more to do before the writer rings.
bool ModelService::save_ahead() {
  if (!disk_) return false;
  const Clock::time_point now = Clock::now();
  const bool is_wanted =
      std::ranges::any_of(jobs_, [](const Item& item) { return item.second.reading.loads; });
  if (disk_->loading && !is_wanted && !disk_->restoring) give_up_loading();
  if (disk_->restoring && load_ahead()) return true;
  if (!end_saving(now) || disk_->saving) return disk_->saving && give_piece(now);
  const bool is_time =
      jobs_.empty() || prefixes_->wants_files() || prefixes_->is_filling(scheduler_.set_aside(), room());
  if (!is_time || now < disk_->rests_until) return false;
  const std::optional<PrefixId> next = prefixes_->first_to_save();
  return next && begin_saving(*next);
}

// Whether it is in a file, with all that it begins with, so that its memory can go.
bool ModelService::save_now(PrefixId id) {
  const Clock::time_point until = disk_->waits_until;
  for (const PrefixId each : prefixes_->path(id)) {
    while (prefixes_->at(each).file_bytes == 0) {
      const bool is_next =
          disk_->saving && !disk_->saving->is_dropped && disk_->saving->given < disk_->saving->content_bytes;
      if (is_next ? give_piece(until) : end_saving(until) && begin_saving(each)) continue;
      return false;
    }
  }
  return true;
}

// False where there is no place for it.
bool ModelService::begin_saving(PrefixId id) {
  if (Clock::now() < disk_->rests_until) return false;
  const Prefix& prefix = prefixes_->at(id);
  const PrefixPlace& parent = prefix.parent;
  PrefixDisk::Saving saving{.id = id, .name = prefix.name, .ids = prefix.ids, .note = {}};
  saving.note = text_of({.name = prefix.name,
                         .tenant = prefix.tenant,
                         .parent = parent.id < 0 ? PrefixDigest{} : prefixes_->at(parent.id).name,
                         .shared = parent.tokens,
                         .parts = prefix.parts,
                         .keys = prefixes_->keys(id)});
  saving.content_bytes = bytes_of(
      state_content(*saving.ids, saving.note, session_.prefix_memory(prefix.sequence, beginning_of(prefix))));
  if (!make_file_room(id, file_bytes(saving.content_bytes))) return false;
  disk_->writer.begin({.path = disk_->folder.path_of(prefix.name),
                       .description = session_.describe_prefix(prefix.sequence, *saving.ids, saving.note),
                       .content_bytes = saving.content_bytes});
  disk_->saving.emplace(std::move(saving));
  return true;
}

// What is written never changes, and only where it lies may have since the last piece. False where there was
// no place, or all are given.
bool ModelService::give_piece(Clock::time_point until) {
  PrefixDisk::Saving& saving = *disk_->saving;
  if (saving.is_dropped) return false;
  const std::span<std::byte> to = disk_->writer.place(until);
  if (to.empty()) return false;
  const Prefix& prefix = prefixes_->at(saving.id);
  copy_from_content(
      state_content(*saving.ids, saving.note, session_.prefix_memory(prefix.sequence, beginning_of(prefix))),
      saving.given, to, parts_.device.compute());
  saving.given += std::ssize(to);
  disk_->writer.give();
  if (saving.given == saving.content_bytes) prefixes_->set_file(saving.id, file_bytes(saving.content_bytes));
  return true;
}

// False where its end is not known yet.
bool ModelService::end_saving(Clock::time_point until) {
  if (!disk_->saving) return true;
  const std::optional<std::string> end = disk_->writer.take_end(until);
  if (!end) return false;
  const PrefixDisk::Saving saved = std::move(*disk_->saving);
  disk_->saving.reset();
  const bool is_written = end->empty(), is_given_up = *end == PrefixWriter::kGivenUp;
  if (saved.is_dropped) {
    disk_->folder.remove(saved.name);
  } else if (is_written) {
    prefixes_->set_file(saved.id, std::max<int64_t>(1, disk_->folder.bytes_of(saved.name)));
  }
  if (!is_written && !is_given_up) saving_failed(saved, *end);
  return true;
}

// The disk may be full: others would fail as well.
void ModelService::saving_failed(const PrefixDisk::Saving& saved, const std::string& why) {
  disk_->rests_until = Clock::now() + kRest;
  const std::string line = fmt::format("{}; no prompt is written for a minute", why);
  if (!saved.is_dropped) return lose_file(saved.id, line);
  ++now_.prefix_files_lost;
  tell_note(line);
}

// ---- and back ---------------------------------------------------------------------------------------------

// The first of all that it begins with, and itself, that is not whole in memory.
std::optional<PrefixId> ModelService::first_to_load(PrefixId id) const {
  if (!disk_) return std::nullopt;
  for (const PrefixId each : prefixes_->path(id)) {
    const bool is_on_its_way = disk_->loading && disk_->loading->id == each;
    if (is_on_its_way || prefixes_->at(each).tier == PrefixTier::disk) return each;
  }
  return std::nullopt;
}

int64_t ModelService::tokens_on_disk(const PrefixPlace& place) const {
  const std::optional<PrefixId> first = first_to_load(place.id);
  return first ? place.tokens - std::min(place.tokens, prefixes_->at(*first).parent.tokens) : 0;
}

// Of a request whose beginning is in files. left: as of read_unit().
bool ModelService::load_unit(Item& item, std::optional<double> left, bool is_first) {
  if (left && *left <= 0 && !is_first) return false;
  Job& job = item.second;
  const PrefixPlace& from = job.reading.from;
  if (from.id < 0 || from.tokens != job.reading.first()) {
    begin_without_prefix(job.group, job);
    begin_part(job);
  } else if (const auto next = first_to_load(from.id); !next) {
    begin_from_prefix(job.group, job);
    begin_part(job);
  } else if (disk_->loading) {
    load_piece(left ? 1 : kPrefixPieceBlocks);
  } else if (!begin_loading(*next, shared_ids(job, *next), session_.rope_table(job.max_tokens))) {
    job.reading.from = {};
  }
  return true;
}

// The tokens that the request has in common with one that it begins with.
std::vector<int32_t> ModelService::shared_ids(const Job& job, PrefixId id) const {
  const std::vector<PrefixId> path = prefixes_->path(job.reading.from.id);
  const auto next = std::ranges::find(path, id) + 1;
  const int64_t shared = next == path.end() ? job.reading.from.tokens : prefixes_->at(*next).parent.tokens;
  return {job.prompt.begin(), job.prompt.begin() + shared};
}

// It counts as memory from now on. expected: its first ids, where they are known. False where it did not
// begin: without room for it, or with a file that is none.
bool ModelService::begin_loading(PrefixId id, std::vector<int32_t> expected, std::optional<int64_t> table) {
  if (disk_->saving && disk_->saving->id == id) (void)end_saving(Clock::now() + kHowever);
  if (!prefixes_->contains(id)) return false;
  std::unique_ptr<StateReader> file;
  try {
    file = std::make_unique<StateReader>(disk_->folder.path_of(prefixes_->at(id).name));
    file->will_read();
  } catch (const Error& error) {
    lose_file(id, fmt::format("{}; the file is removed", error.what()));
    return false;
  }
  prefixes_->set_tier(id, PrefixTier::device);
  fit_prefixes(nullptr);
  if (!prefixes_->contains(id) || prefixes_->at(id).tier != PrefixTier::device) return false;
  const Prefix& prefix = prefixes_->at(id);
  try {
    bring_back(prefix.parent.id);
    prefixes_->set_sequence(id, session_.restore_prefix(*file, beginning_of(prefix), table));
  } catch (const InvalidInput& error) {
    prefixes_->set_tier(id, PrefixTier::disk);
    lose_file(id, fmt::format("{}; the file is removed", error.what()));
    return false;
  } catch (const OutOfMemory&) {
    prefixes_->set_tier(id, PrefixTier::disk);
    return false;
  } catch (...) {
    prefixes_->set_tier(id, PrefixTier::disk);
    throw;
  }
  begin_pieces(id, std::move(expected), std::move(file));
  return true;
}

void ModelService::begin_pieces(PrefixId id, std::vector<int32_t> expected,
                                std::unique_ptr<StateReader> file) {
  const StateDescription& kept = file->description();
  std::vector<int32_t> ids(static_cast<std::size_t>(kept.ids));
  std::string note(static_cast<std::size_t>(kept.note_bytes), '\0');
  disk_->piece.resize(static_cast<std::size_t>(kPrefixPieceBytes));
  disk_->loading.emplace(PrefixDisk::Loading{.id = id,
                                             .file = std::move(file),
                                             .ids = std::move(ids),
                                             .note = std::move(note),
                                             .expected = std::move(expected)});
}

// What is to be restored, a piece at a time. False when it is there, or cannot be.
bool ModelService::load_ahead() {
  const PrefixId id = *disk_->restoring;
  const std::optional<PrefixId> next = prefixes_->contains(id) ? first_to_load(id) : std::nullopt;
  if (disk_->loading && next) {
    load_piece(jobs_.empty() ? kPrefixPieceBlocks : 1);
    return true;
  }
  if (next && begin_loading(*next, {}, std::nullopt)) return true;
  disk_->restoring.reset();
  return false;
}

void ModelService::load_piece(int64_t blocks) {
  PrefixDisk::Loading& loading = *disk_->loading;
  const int64_t content = loading.file->content_bytes();
  const int64_t count = std::min(blocks * kStateBlockBytes, content - loading.read);
  const auto bytes = std::span(disk_->piece).first(static_cast<std::size_t>(count));
  try {
    loading.file->read(loading.read / kStateBlockBytes, bytes, parts_.device.threads());
  } catch (const Error& error) {
    return lose_file(loading.id, fmt::format("{}; the file is removed", error.what()));
  }
  const Prefix& prefix = prefixes_->at(loading.id);
  copy_to_content(
      state_content(loading.ids, loading.note, session_.prefix_memory(prefix.sequence, beginning_of(prefix))),
      loading.read, bytes, parts_.device.compute());
  loading.read += count;
  if (loading.read == content) finish_loading();
}

void ModelService::finish_loading() {
  PrefixDisk::Loading& loading = *disk_->loading;
  const bool is_it =
      std::ranges::equal(std::span(loading.ids).first(loading.expected.size()), loading.expected);
  if (!is_it) {
    return lose_file(
        loading.id,
        fmt::format("{} holds other tokens than it is named for; the file is removed", loading.file->name()));
  }
  prefixes_->set_ids(loading.id, std::make_shared<const std::vector<int32_t>>(std::move(loading.ids)));
  for (const PrefixId each : prefixes_->path(loading.id)) disk_->folder.touch(prefixes_->at(each).name);
  disk_->loading.reset();
}

// Nobody waits for it any more.
void ModelService::give_up_loading() {
  const PrefixId id = disk_->loading->id;
  leave_prefix(id);
  prefixes_->set_tier(id, PrefixTier::disk);
  prefixes_->set_sequence(id, -1);
}

}  // namespace shadowkv
