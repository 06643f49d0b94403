// Files of saved state: written whole or not at all, and refused wherever they are damaged.
#include "formats/state_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <fstream>
#include <iterator>

#include "formats/temporary_file.h"
#include "shadowkv/error.h"
#include "support/sanitizer.h"

namespace shadowkv::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

StateDescription small_description() {
  return {.model = "a \"model\"\n\xff",
          .fingerprint = "0123456789abcdef",
          .dtype = "float32",
          .attention = "method=full",
          .tokens = 3,
          .ids = 4,
          .note_bytes = 5,
          .numbers = {1, 0, int64_t{1} << 40}};
}

std::vector<std::byte> content_of(int64_t bytes) {
  std::vector<std::byte> content(static_cast<std::size_t>(bytes));
  uint32_t state = 7;
  for (std::byte& byte : content) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return content;
}

void save(const fs::path& path, const std::vector<std::byte>& content) {
  ThreadPool threads(3);
  StateWriter writer(path, small_description(), std::ssize(content));
  const int64_t half = std::ssize(content) / 2 / kStateBlockBytes * kStateBlockBytes;
  const std::span all(content);
  writer.write(0, all.first(static_cast<std::size_t>(half)), threads);
  writer.write(half / kStateBlockBytes, all.subspan(static_cast<std::size_t>(half)), threads);
  writer.commit();
}

std::vector<std::byte> load(const fs::path& path) {
  ThreadPool threads(3);
  const StateReader reader(path);
  std::vector<std::byte> content(static_cast<std::size_t>(reader.content_bytes()));
  reader.read(0, content, threads);
  return content;
}

std::string bytes_of_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The refusal, which is one line.
std::string refusal(const fs::path& path) {
  try {
    (void)load(path);
  } catch (const InvalidInput& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  return "taken";
}

TEST(StateFiles, GiveBackWhatTheyWereGiven) {
  const TemporaryFolder folder;
  for (const int64_t bytes : {int64_t{21}, kStateBlockBytes, 2 * kStateBlockBytes + 77}) {
    const std::vector<std::byte> content = content_of(bytes);
    const fs::path path = folder.path() / "state";
    save(path, content);
    EXPECT_EQ(load(path), content);
    const StateDescription found = StateReader(path).description(), given = small_description();
    EXPECT_THAT(found.model, HasSubstr("a \"model\"\n"));
    EXPECT_EQ(found.fingerprint, given.fingerprint);
    EXPECT_EQ(found.dtype, given.dtype);
    EXPECT_EQ(found.attention, given.attention);
    EXPECT_EQ(found.tokens, given.tokens);
    EXPECT_EQ(found.ids, given.ids);
    EXPECT_EQ(found.note_bytes, given.note_bytes);
    EXPECT_EQ(found.numbers, given.numbers);
  }
}

TEST(StateFiles, AreRefusedWhereverABitIsAnother) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state";
  save(path, content_of(100));
  const std::string whole = bytes_of_file(path);
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (int bit = 0; bit < 8; bit += kIsSanitized ? 3 : 1) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      ASSERT_NE(refusal(folder.write("damaged", damaged)), "taken") << "bit " << bit << " of byte " << i;
    }
  }
}

TEST(StateFiles, AreRefusedAtAnyOtherLength) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state";
  save(path, content_of(100));
  const std::string whole = bytes_of_file(path);
  for (std::size_t i = 0; i < whole.size(); ++i)
    ASSERT_NE(refusal(folder.write("short", whole.substr(0, i))), "taken") << "cut at " << i;
  EXPECT_THAT(refusal(folder.write("short", whole.substr(0, 200))), HasSubstr("cut short or damaged"));
  EXPECT_THAT(refusal(folder.write("long", whole + "x")), HasSubstr("cut short or damaged"));
}

TEST(StateFiles, BlocksCountInTheirPlacesOnly) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state";
  save(path, content_of(2 * kStateBlockBytes));
  std::string swapped = bytes_of_file(path);
  const std::size_t block = static_cast<std::size_t>(kStateBlockBytes) + 8, at = swapped.size() - 2 * block;
  swapped = swapped.substr(0, at) + swapped.substr(at + block) + swapped.substr(at, block);
  EXPECT_THAT(refusal(folder.write("swapped", swapped)), HasSubstr("checksum of block"));
}

TEST(StateFiles, OfOtherKindsAreNamed) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state";
  save(path, content_of(100));
  std::string newer = bytes_of_file(path);
  newer[8] = 2;
  EXPECT_THAT(refusal(folder.write("newer", newer)), HasSubstr("version 2, this program reads up to 1"))
      << "an older program says what it wants";
  EXPECT_THAT(refusal(folder.write("foreign", std::string(500, 'x'))), HasSubstr("is no saved state"));
  EXPECT_THAT(refusal(folder.write("empty", "")), HasSubstr("is no saved state"));
  EXPECT_THAT(refusal(folder.path() / "missing"), HasSubstr("No such file"));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("no regular file"));
  ASSERT_EQ(mkfifo((folder.path() / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(refusal(folder.path() / "pipe"), HasSubstr("no regular file"));
}

TEST(StateFiles, ThatCannotBeWrittenLeaveWhatWasThere) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state";
  const std::vector<std::byte> old = content_of(100);
  save(path, old);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  (void)std::signal(SIGXFSZ, SIG_IGN);
  for (const int64_t most : {int64_t{0}, int64_t{100}, kStateBlockBytes, 3 * kStateBlockBytes}) {
    rlimit limit = before;
    limit.rlim_cur = static_cast<rlim_t>(most);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    try {
      save(path, content_of(3 * kStateBlockBytes));
      ADD_FAILURE() << "a file of more than " << most << " bytes was written";
    } catch (const DeviceFailure& error) {
      EXPECT_THAT(error.what(), HasSubstr("writing " + path.string() + " failed"));
    }
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_EQ(load(path), old);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1) << "nothing else is left";
  }
  EXPECT_THROW(save(folder.path() / "no" / "such" / "folder", old), InvalidInput);
  EXPECT_THROW(save(folder.path(), old), InvalidInput);
}

TEST(StateFiles, ThatAreGivenUpAreGone) {
  const TemporaryFolder folder;
  { const StateWriter writer(folder.path() / "state", small_description(), 5 * kStateBlockBytes); }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(StateFiles, AreTheirOwnersAlone) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state";
  save(path, content_of(100));
  const fs::perms others = fs::perms::group_all | fs::perms::others_all;
  EXPECT_EQ(fs::status(path).permissions() & others, fs::perms::none);
}

}  // namespace
}  // namespace shadowkv::testing
