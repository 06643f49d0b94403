// Prefixes in files: a hit from there is a hit from memory, token for token; whatever is wrong with a file or
// the folder costs time and no answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "engine/engines.h"
#include "engine/prefix_folder.h"
#include "engine/requests.h"
#include "engine/storage_cases.h"
#include "formats/temporary_file.h"
#include "shadowkv/error.h"
#include "support/sanitizer.h"

namespace shadowkv::testing {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kPlenty = int64_t{1} << 30;

// Lines of what went wrong, from any thread.
class Notes {
 public:
  [[nodiscard]] std::function<void(const std::string&)> taker() {
    return [this](const std::string& line) {
      const std::lock_guard lock(mutex_);
      lines_.push_back(line);
    };
  }
  [[nodiscard]] std::vector<std::string> lines() const {
    const std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
};

// The first tokens of one text, then `more` others.
ServiceRequest request(int64_t tokens, int64_t more, uint32_t seed = 6) {
  ServiceRequest r{.prompt_ids = random_ids(tokens), .max_new_tokens = 5, .ignore_eos = true};
  for (const int32_t id : random_ids(more, seed)) r.prompt_ids.push_back(id);
  return r;
}

// Until all that is kept is in files, which is a matter of a moment once nobody is answered.
ServiceStatistics when_saved(const Service& service, int64_t files) {
  for (int i = 0; i < 2000 && service.statistics().prefix_files < files; ++i)
    std::this_thread::sleep_for(5ms);
  EXPECT_EQ(service.statistics().prefix_files, files);
  return service.statistics();
}

// Of all in a folder, what the service wrote.
std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".prefix") files.push_back(entry.path());
  }
  return files;
}

// What request() is answered, and how much of its prompt had been kept.
struct Answered {
  std::vector<int32_t> ids;
  int64_t cached = 0;
};
Answered ask(Service& service, const ServiceRequest& request) {
  const auto stream = service.submit(request);
  std::vector<int32_t> ids = read_all(*stream);
  return {std::move(ids), stream->report().cached_tokens};
}

class PrefixesOnDisk : public ::testing::TestWithParam<StorageCase> {
 protected:
  [[nodiscard]] std::unique_ptr<Service> serve(Engine& engine) {
    return engine.serve({.attention = GetParam().config,
                         .prefix_cache_bytes = kPlenty,
                         .prefix_cache_dir = folder_.path(),
                         .on_note = notes_.taker()});
  }

  TemporaryFolder folder_;
  Notes notes_;
};

// A second engine has nothing but the files of the first.
TEST_P(PrefixesOnDisk, AnswerAsThoseInMemory) {
  const ServiceRequest first = request(1300, 0), second = request(1250, 90), shorter = request(700, 30);
  Answered from_memory, again_from_memory;
  {
    const auto engine = engine_of(GetParam().dtype);
    const auto service = serve(*engine);
    (void)ask(*service, first);
    from_memory = ask(*service, second);
    again_from_memory = ask(*service, shorter);
    service->wait_idle();
    (void)when_saved(*service, service->statistics().prefixes);
    EXPECT_EQ(service->statistics().prefix_disk_tokens, 0);
  }
  const auto engine = engine_of(GetParam().dtype);
  const auto service = serve(*engine);
  EXPECT_EQ(service->statistics().prefixes, 0);
  EXPECT_EQ(held_by_requests(*engine), 0) << "files alone";
  const Answered from_disk = ask(*service, second);
  EXPECT_EQ(from_disk.ids, from_memory.ids);
  EXPECT_EQ(from_disk.cached >= from_memory.cached, true);
  EXPECT_EQ(service->statistics().prefix_disk_tokens, from_disk.cached);
  EXPECT_EQ(ask(*service, shorter).ids, again_from_memory.ids);
  EXPECT_THAT(notes_.lines(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Configurations, PrefixesOnDisk, ::testing::ValuesIn(prefix_storage_cases()),
                         name_of_case);

class PrefixFiles : public ::testing::Test {
 protected:
  [[nodiscard]] ServiceOptions options() {
    return {.attention = small_shadow(),
            .prefix_cache_bytes = kPlenty,
            .prefix_cache_dir = folder_.path(),
            .on_note = notes_.taker()};
  }
  // A prompt of three segments in files: each behind the one before.
  void fill() {
    const auto service = engine_->serve(options());
    (void)ask(*service, request(1600, 0));
    (void)when_saved(*service, 3);
  }
  // In the order of what they hold.
  [[nodiscard]] std::vector<fs::path> files() const {
    std::vector<std::pair<int64_t, fs::path>> sorted;
    for (const fs::path& file : files_in(folder_.path()))
      sorted.emplace_back(StateReader(file).description().tokens, file);
    std::ranges::sort(sorted);
    std::vector<fs::path> files;
    for (auto& [tokens, file] : sorted) files.push_back(std::move(file));
    return files;
  }
  [[nodiscard]] Answered expected(const ServiceRequest& of, std::vector<int64_t> parts) {
    const int64_t cached = parts.empty() ? 0 : parts.back();
    return {answer_alone(*alone_, small_shadow(), of, parts), cached};
  }
  void expect(Service& service, const ServiceRequest& asked, const std::vector<int64_t>& parts) {
    const Answered answer = ask(service, asked), wanted = expected(asked, parts);
    EXPECT_EQ(answer.ids, wanted.ids);
    EXPECT_EQ(answer.cached, wanted.cached);
  }

  TemporaryFolder folder_;
  Notes notes_;
  std::unique_ptr<Engine> engine_ = small_engine(), alone_ = small_engine();
};

TEST_F(PrefixFiles, HoldWhatEarlierOnesDoNot) {
  fill();
  const std::vector<fs::path> all = files();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_LT(fs::file_size(all[2]), 2 * fs::file_size(all[0]));
  const auto service = engine_->serve(options());
  const ServiceStatistics before = service->statistics();
  EXPECT_EQ(before.prefix_files, 3);
  int64_t bytes = 0;
  for (const fs::path& file : all) bytes += static_cast<int64_t>(fs::file_size(file));
  EXPECT_EQ(before.prefix_file_bytes, bytes);
  expect(*service, request(1100, 40), {1024});
  EXPECT_EQ(service->statistics().prefixes, 2) << "what it does not begin with stays where it is";
  EXPECT_EQ(service->statistics().prefix_disk_tokens, 1024);
  expect(*service, request(1600, 50), {1536});
  EXPECT_EQ(service->statistics().prefix_disk_tokens, 1024 + 512) << "the first two were in memory";
}

// Where memory is for one alone, the others come and go.
TEST_F(PrefixFiles, TakeWhatMemoryHasNoRoomFor) {
  ServiceOptions small = options();
  small.prefix_cache_bytes = engine_->footprint(small_shadow(), 600).device * 3 / 2;
  const auto service = engine_->serve(small);
  for (uint32_t seed = 1; seed < 6; ++seed) expect(*service, request(0, 600, seed), {});
  for (uint32_t seed = 1; seed < 6; ++seed) {
    ServiceRequest again = request(0, 600, seed);
    again.prompt_ids.push_back(7);
    expect(*service, again, {512});
  }
  EXPECT_EQ(when_saved(*service, 5).prefix_files_lost, 0);
  EXPECT_GE(service->statistics().prefix_disk_tokens, 3 * 512);
  EXPECT_LE(service->statistics().prefix_bytes, small.prefix_cache_bytes);
  EXPECT_THAT(notes_.lines(), IsEmpty());
}

TEST_F(PrefixFiles, TakeNoMoreThanTheyMay) {
  int64_t one = 0;
  {
    const auto service = engine_->serve(options());
    for (uint32_t seed = 1; seed < 4; ++seed) {
      (void)ask(*service, request(0, 600, seed));
      one = when_saved(*service, seed).prefix_file_bytes / seed;
      std::this_thread::sleep_for(30ms);  // times of files are that coarse
    }
  }
  ServiceOptions less = options();
  less.prefix_cache_disk_bytes = 2 * one + one / 2;
  const auto service = engine_->serve(less);
  EXPECT_EQ(files().size(), 2u);
  EXPECT_EQ(ask(*service, request(0, 600, 1)).cached, 0) << "the least recently used";
  EXPECT_EQ(ask(*service, request(0, 600, 3)).cached, 512);
  for (int i = 0; i < 400 && ask(*service, request(0, 600, 1)).cached == 0; ++i)
    std::this_thread::sleep_for(5ms);
  EXPECT_LE(service->statistics().prefix_file_bytes, less.prefix_cache_disk_bytes);
  EXPECT_LE(files().size(), 2u);
}

TEST_F(PrefixFiles, AreFoundByTheSameConfigurationAndTenantAlone) {
  fill();
  ServiceRequest theirs = request(1600, 10);
  theirs.cache_salt = "another";
  {
    const auto service = engine_->serve(options());
    EXPECT_EQ(ask(*service, theirs).cached, 0);
  }
  ServiceOptions other = options();
  other.attention.sparse_budget = 48;
  const auto service = engine_->serve(other);
  EXPECT_EQ(service->statistics().prefix_files, 0);
  EXPECT_EQ(ask(*service, request(1600, 10)).cached, 0);
  EXPECT_THAT(notes_.lines(), IsEmpty());
}

void damage(const fs::path& file, int kind) {
  const auto size = static_cast<int64_t>(fs::file_size(file));
  if (kind == 0) return fs::resize_file(file, static_cast<uintmax_t>(size / 2));
  std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
  out.seekp(kind == 1 ? size - 5 : kind == 2 ? 0 : 8);
  out.write(kind == 3 ? "\x63" : "?", 1);  // 3: a newer version
}

// Any of the three, in any way, before the service begins or while it runs: one line, and what is missing is
// read anew.
TEST_F(PrefixFiles, ThatAreDamagedAreDroppedWithALine) {
  const ServiceRequest asked = request(1600, 20);
  const auto all = kIsSanitized ? std::vector<std::size_t>{1} : std::vector<std::size_t>{0, 1, 2};
  for (const std::size_t which : all) {
    for (const int kind : {0, 1, 2, 3, 10, 11, 12, 13}) {
      for (const fs::path& file : files_in(folder_.path())) fs::remove(file);
      fill();
      const std::size_t lines = notes_.lines().size();
      const fs::path file = files().at(which);
      if (kind < 10) damage(file, kind);
      const auto service = engine_->serve(options());
      if (kind >= 10) damage(file, kind - 10);
      std::vector<int64_t> parts;
      if (which > 0 && kind < 10) parts = {512 * static_cast<int64_t>(which)};  // known from the start
      expect(*service, asked, parts);
      ASSERT_EQ(notes_.lines().size(), lines + 1) << which << ' ' << kind;
      EXPECT_THAT(notes_.lines().back(), HasSubstr("the file is removed"));
      EXPECT_EQ(notes_.lines().back().find('\n'), std::string::npos);
      EXPECT_EQ(service->statistics().prefix_files_lost, 1);
      EXPECT_EQ(ask(*service, asked).cached, 1536) << "kept again, " << which << ' ' << kind;
    }
  }
}

TEST_F(PrefixFiles, ThatVanishAreReadAnew) {
  fill();
  const auto service = engine_->serve(options());
  for (const fs::path& file : files()) fs::remove(file);
  expect(*service, request(1600, 20), {});
  EXPECT_EQ(notes_.lines().size(), 1u);
  EXPECT_EQ(ask(*service, request(1600, 30)).cached, 1536);
}

TEST_F(PrefixFiles, LeaveAloneWhatIsNotTheirs) {
  fill();
  const fs::path home = files()[0].parent_path();
  std::ofstream(home / "letter.txt") << "dear";
  std::ofstream(home / "short.prefix") << "not a name of its own";
  std::ofstream(home / "state.123.partial") << "half";
  const auto service = engine_->serve(options());
  EXPECT_EQ(service->statistics().prefix_files, 3);
  EXPECT_TRUE(fs::exists(home / "letter.txt"));
  EXPECT_TRUE(fs::exists(home / "short.prefix"));
  EXPECT_FALSE(fs::exists(home / "state.123.partial")) << "a service that has ended left it";
}

TEST_F(PrefixFiles, GoOnWithoutAFolder) {
  ServiceOptions nowhere = options();
  nowhere.prefix_cache_dir = folder_.write("file", "no folder") / "within";
  const auto service = engine_->serve(nowhere);
  ASSERT_EQ(notes_.lines().size(), 1u);
  EXPECT_THAT(notes_.lines()[0], HasSubstr("no prompts are kept in "));
  EXPECT_EQ(ask(*service, request(600, 10)).cached, 0);
  EXPECT_EQ(ask(*service, request(600, 20)).cached, 512) << "in memory they are";
}

TEST_F(PrefixFiles, ServeOneServiceAtATime) {
  const auto service = engine_->serve(options());
  const auto other = alone_->serve(options());
  ASSERT_EQ(notes_.lines().size(), 1u);
  EXPECT_THAT(notes_.lines()[0], HasSubstr("it serves another service"));
  EXPECT_EQ(ask(*other, request(600, 10)).cached, 0);
}

// While it lives, no file of this process may be longer than 5,000 bytes.
class FullDisk {
 public:
  FullDisk() {
    (void)std::signal(SIGXFSZ, SIG_IGN);
    EXPECT_EQ(getrlimit(RLIMIT_FSIZE, &before_), 0);
    rlimit limit = before_;
    limit.rlim_cur = 5000;
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FullDisk() { EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &before_), 0); }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  rlimit before_{};
};

TEST_F(PrefixFiles, ThatCannotBeWrittenCostNothing) {
  const auto service = engine_->serve(options());
  std::optional<FullDisk> full(std::in_place);
  (void)ask(*service, request(1600, 0));
  for (int i = 0; i < 2000 && notes_.lines().empty(); ++i) std::this_thread::sleep_for(5ms);
  full.reset();
  ASSERT_EQ(notes_.lines().size(), 1u);
  EXPECT_THAT(notes_.lines()[0], HasSubstr("no prompt is written for a minute"));
  expect(*service, request(1600, 20), {1536});
  EXPECT_EQ(service->statistics().prefix_files, 0);
  EXPECT_THAT(files_in(folder_.path()), IsEmpty());
}

// Nor where their memory is asked for at once.
TEST_F(PrefixFiles, ThatCannotBeWrittenLetMemoryGo) {
  ServiceOptions small = options();
  small.prefix_cache_bytes = engine_->footprint(small_shadow(), 600).device * 3 / 2;
  const auto service = engine_->serve(small);
  std::optional<FullDisk> full(std::in_place);
  std::vector<std::unique_ptr<Stream>> streams;
  for (uint32_t seed = 1; seed < 6; ++seed) streams.push_back(service->submit(request(0, 600, seed)));
  for (uint32_t seed = 1; seed < 6; ++seed)
    EXPECT_EQ(read_all(*streams[seed - 1]), expected(request(0, 600, seed), {}).ids);
  service->wait_idle();
  for (int i = 0; i < 2000 && notes_.lines().empty(); ++i) std::this_thread::sleep_for(5ms);
  full.reset();
  EXPECT_EQ(notes_.lines().size(), 1u) << "for a minute";
  EXPECT_EQ(service->statistics().prefix_files, 0);
}

// Who is cancelled while its prompt comes from the disk leaves it to others.
TEST_F(PrefixFiles, OutliveThoseWhoAskedForThem) {
  fill();
  const auto service = engine_->serve(options());
  for (int i = 0; i < 20; ++i) (void)service->submit(request(1600, 20));  // whose stream goes at once
  service->wait_idle();
  expect(*service, request(1600, 20), {1536});
  EXPECT_EQ(service->statistics().prefix_files, 3);
  EXPECT_THAT(notes_.lines(), IsEmpty());
}

// Until what was asked for is so.
template <typename Is>
KeptPrompt when_kept(Service& service, std::size_t place, const Is& is) {
  for (int i = 0; i < 2000 && !is(service.kept_prompts("").at(place)); ++i) std::this_thread::sleep_for(5ms);
  const KeptPrompt kept = service.kept_prompts("").at(place);
  EXPECT_TRUE(is(kept));
  return kept;
}

// The thread that knows it is the one that calls back: it would wait for itself.
TEST_F(PrefixFiles, AreNotAskedForWithinACallback) {
  const auto service = engine_->serve(options());
  std::atomic<int> refused = 0;
  ServiceRequest asks = request(600, 10);
  asks.on_news = [&] {
    EXPECT_THROW((void)service->kept_prompts(""), InvalidInput);
    EXPECT_THROW((void)service->change_kept_prompt("", "any", KeptAction::drop), InvalidInput);
    ++refused;
  };
  (void)ask(*service, asks);
  service->wait_idle();
  EXPECT_GT(refused, 0);
}

TEST_F(PrefixFiles, AreListedForTheirTenantAlone) {
  fill();
  const auto service = engine_->serve(options());
  ServiceRequest theirs = request(600, 0);
  theirs.cache_salt = "b";
  (void)ask(*service, theirs);
  const std::vector<KeptPrompt> mine = service->kept_prompts(""), others = service->kept_prompts("b");
  ASSERT_EQ(mine.size(), 3u);
  ASSERT_EQ(others.size(), 1u);
  EXPECT_THAT(service->kept_prompts("c"), IsEmpty());
  EXPECT_EQ(others[0].where, "device");
  EXPECT_GT(others[0].memory_bytes, 0);
  EXPECT_EQ(others[0].tokens, 512);
  for (const KeptPrompt& one : mine) {
    EXPECT_EQ(one.where, "disk");
    EXPECT_EQ(one.memory_bytes, 0);
    EXPECT_GT(one.file_bytes, 0);
    EXPECT_EQ(one.id.size(), 32u);
    EXPECT_GE(one.unused_s, 0);
    EXPECT_FALSE(service->change_kept_prompt("b", one.id, KeptAction::drop)) << "not theirs";
  }
  EXPECT_EQ(service->kept_prompts("").size(), 3u);
}

TEST_F(PrefixFiles, AreRestoredAndDroppedWhenAsked) {
  fill();
  const auto service = engine_->serve(options());
  std::vector<KeptPrompt> kept = service->kept_prompts("");
  std::ranges::sort(kept, {}, &KeptPrompt::tokens);
  ASSERT_TRUE(service->change_kept_prompt("", kept[1].id, KeptAction::restore));
  const auto is_there = [](const KeptPrompt& one) { return one.where == "device"; };
  EXPECT_EQ(when_kept(*service, 0, is_there).id, kept[1].id) << "the latest used";
  expect(*service, request(1100, 40), {1024});
  EXPECT_EQ(service->statistics().prefix_disk_tokens, 0) << "nobody waited for it";
  const auto dropped = service->change_kept_prompt("", kept[1].id, KeptAction::drop);
  ASSERT_TRUE(dropped);
  EXPECT_EQ(dropped->tokens, 1024);
  EXPECT_EQ(service->kept_prompts("").size(), 1u) << "what begins with it is gone, too";
  EXPECT_EQ(files().size(), 1u);
  expect(*service, request(1100, 40), {512});
}

TEST_F(PrefixFiles, AreSavedAndPinnedWhenAsked) {
  ServiceOptions small = options();
  small.prefix_cache_bytes = engine_->footprint(small_shadow(), 600).device * 3 / 2;
  small.prefix_cache_disk_bytes = small.prefix_cache_bytes;
  const auto service = engine_->serve(small);
  (void)ask(*service, request(0, 600, 1));
  const std::string id = service->kept_prompts("").at(0).id;
  EXPECT_TRUE(service->change_kept_prompt("", id, KeptAction::save));
  EXPECT_TRUE(service->change_kept_prompt("", id, KeptAction::pin)->is_pinned);
  const auto is_written = [](const KeptPrompt& one) { return one.file_bytes > 0; };
  (void)when_kept(*service, 0, is_written);
  for (uint32_t seed = 2; seed < 6; ++seed) (void)ask(*service, request(0, 600, seed));
  const std::vector<KeptPrompt> kept = service->kept_prompts("");
  const auto pinned = std::ranges::find(kept, id, &KeptPrompt::id);
  ASSERT_NE(pinned, kept.end());
  EXPECT_EQ(pinned->where, "device");
  EXPECT_FALSE(service->change_kept_prompt("", id, KeptAction::unpin)->is_pinned);
  ServiceRequest again = request(0, 600, 1);
  again.prompt_ids.push_back(7);
  expect(*service, again, {512});
}

TEST_F(PrefixFiles, AreNeededForSavingAndRestoring) {
  const auto service = engine_->serve({.attention = small_shadow(), .prefix_cache_bytes = kPlenty});
  (void)ask(*service, request(600, 0));
  const std::string id = service->kept_prompts("").at(0).id;
  EXPECT_THROW((void)service->change_kept_prompt("", id, KeptAction::save), InvalidInput);
  EXPECT_THROW((void)service->change_kept_prompt("", id, KeptAction::restore), InvalidInput);
  EXPECT_FALSE(service->change_kept_prompt("", "none", KeptAction::pin));
  EXPECT_TRUE(service->change_kept_prompt("", id, KeptAction::drop));
  EXPECT_THAT(service->kept_prompts(""), IsEmpty());
  service->wait_idle();
  EXPECT_EQ(held_by_requests(*engine_), 0);
}

TEST_F(PrefixFiles, RefuseWhatCannotBeMeant) {
  ServiceOptions nothing = options();
  nothing.prefix_cache_bytes = 0;
  EXPECT_THROW((void)engine_->serve(nothing), InvalidInput);
  ServiceOptions less = options();
  less.prefix_cache_disk_bytes = -1;
  EXPECT_THROW((void)engine_->serve(less), InvalidInput);
}

TEST(PrefixNotes, AreReadAsTheyWereWritten) {
  const std::vector<int32_t> ids = random_ids(192);
  PrefixNote note{.shared = 64, .parts = {64, 192}};
  note.keys = prefix_keys({.identity = "model", .salt = "salt"}, ids, std::vector<int64_t>{64, 128, 192});
  note.name = note.keys[2].digest;
  note.parent = note.keys[0].digest;
  const PrefixNote again = parse_prefix_note(text_of(note), "file");
  EXPECT_EQ(again.name, note.name);
  EXPECT_EQ(again.parent, note.parent);
  EXPECT_EQ(again.shared, 64);
  EXPECT_THAT(again.parts, ElementsAre(64, 192));
  ASSERT_EQ(again.keys.size(), 3u);
  EXPECT_EQ(again.keys[1].tokens, 128);
  EXPECT_EQ(again.keys[1].digest, note.keys[1].digest);
}

TEST(PrefixNotes, ThatAreNoneAreRefused) {
  const std::string whole = text_of({.parts = {64}});
  EXPECT_NO_THROW((void)parse_prefix_note(whole, "file"));
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_THROW((void)parse_prefix_note(whole.substr(0, length), "file"), InvalidInput) << length;
  for (const std::string text :
       {"[]", "{}", "7", R"({"name":7,"parent":"","shared":0,"parts":[],"keys":[]})"})
    EXPECT_THROW((void)parse_prefix_note(text, "file"), InvalidInput) << text;
}

}  // namespace
}  // namespace shadowkv::testing
