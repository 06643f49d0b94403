#include "hub/partial_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "formats/temporary_file.h"
#include "hub/cache.h"
#include "shadowkv/error.h"

namespace shadowkv::testing {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST(ByteRanges, MissWhatAPlainSetMisses) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    constexpr int64_t kSize = 40;
    ByteRanges ranges;
    std::vector<bool> plain(kSize);
    for (int i = 0; i < round % 12; ++i) {
      const auto begin = static_cast<int64_t>(random() % kSize);
      const int64_t end = begin + static_cast<int64_t>(random()) % (kSize - begin + 1);
      ranges.add({begin, end});
      for (int64_t at = begin; at < end; ++at) plain[static_cast<std::size_t>(at)] = true;
    }
    EXPECT_EQ(ranges.bytes(), std::count(plain.begin(), plain.end(), true));
    for (const auto& [begin, end] : ranges.missing(kSize, 7)) {
      EXPECT_LT(begin, end);
      EXPECT_LE(end - begin, 7);
      for (int64_t at = begin; at < end; ++at) {
        EXPECT_FALSE(plain[static_cast<std::size_t>(at)]);
        plain[static_cast<std::size_t>(at)] = true;
      }
    }
    EXPECT_EQ(std::count(plain.begin(), plain.end(), true), kSize);
  }
}

TEST(PartialFile, IsTakenUpByTheNextOne) {
  const TemporaryFolder folder;
  const auto blob = folder.path() / "blob";
  {
    PartialFile first(blob, 10);
    EXPECT_FALSE(first.resumed());
    first.write(6, bytes_of("ghij"));
    first.mark({6, 10});
    first.write(0, bytes_of("xx"));  // never marked
  }
  EXPECT_FALSE(std::filesystem::exists(blob));
  PartialFile second(blob, 10);
  EXPECT_TRUE(second.resumed());
  EXPECT_EQ(second.missing(100), (std::vector<ByteRange>{{0, 6}}));
  second.write(0, bytes_of("abcdef"));
  second.mark({0, 6});
  EXPECT_TRUE(second.missing(100).empty());
  second.commit();
  EXPECT_EQ(read(blob), "abcdefghij");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(PartialFile, OfAnotherSizeIsForgotten) {
  const TemporaryFolder folder;
  const auto blob = folder.path() / "blob";
  {
    PartialFile first(blob, 10);
    first.mark({0, 10});
  }
  const PartialFile second(blob, 11);
  EXPECT_EQ(second.present_bytes(), 0);
}

// A process that ends while it writes leaves half a line; a disk may leave anything.
TEST(PartialFile, AJournalIsBelievedUpToItsFirstFault) {
  const TemporaryFolder folder;
  const auto blob = folder.path() / "blob";
  for (const std::string end :
       {"4 1", "4 1000\n", "8 6\n", "-3 2\n", "x", "4 5 6\n", "99999999999999999999 1\n"}) {
    {
      PartialFile(blob, 100).mark({0, 1});
    }
    folder.write("blob.shadowkv.journal", "0 3\n" + end + "\n");
    PartialFile file(blob, 100);
    EXPECT_EQ(file.missing(1000).back(), (ByteRange{3, 100})) << end;
    file.discard();
  }
}

TEST(FileLock, IsHeldByOneAtATime) {
  const TemporaryFolder folder;
  struct GaveUp {};
  const auto give_up = [] { throw GaveUp(); };
  {
    const FileLock held(folder.path() / "lock", give_up);
    EXPECT_THROW(FileLock(folder.path() / "lock", give_up), GaveUp);
    std::filesystem::remove(folder.path() / "lock");  // as some programs do when they give it back
    EXPECT_NO_THROW(FileLock(folder.path() / "lock", give_up));
  }
  EXPECT_NO_THROW(FileLock(folder.path() / "lock", give_up));
}

TEST(RepositoryCache, LinksLeadToBlobsFromAnyDepth) {
  const TemporaryFolder folder;
  const RepositoryCache cache(folder.path(), "org/name");
  cache.create();
  const std::string commit(40, 'c'), etag(40, 'e');
  std::ofstream(cache.blob(etag)) << "content";
  cache.link(commit, "config.json", std::string(40, 'd'));  // leads nowhere, and gives way
  cache.link(commit, "config.json", etag);
  cache.link(commit, "a/b/c.gguf", etag);
  EXPECT_EQ(std::filesystem::read_symlink(cache.snapshot(commit) / "config.json"), "../../blobs/" + etag);
  EXPECT_EQ(std::filesystem::read_symlink(cache.snapshot(commit) / "a/b/c.gguf"),
            "../../../../blobs/" + etag);
  EXPECT_EQ(read(cache.snapshot(commit) / "a/b/c.gguf"), "content");
  cache.link(commit, "gone", std::string(40, 'd'));
  EXPECT_EQ(cache.files_of(commit), (std::vector<std::string>{"a/b/c.gguf", "config.json"}));
}

TEST(RepositoryCache, RevisionsLeadToCommits) {
  const TemporaryFolder folder;
  const RepositoryCache cache(folder.path(), "org/name");
  const std::string commit(40, 'c');
  EXPECT_FALSE(cache.commit_of("main"));
  EXPECT_EQ(cache.commit_of(commit), commit);
  cache.create();
  cache.set_commit("main", std::string(40, 'a'));
  cache.set_commit("main", commit);
  cache.set_commit("refs/pr/1", commit);
  cache.set_commit(commit, commit);
  EXPECT_EQ(cache.commit_of("main"), commit);
  EXPECT_EQ(read(cache.folder() / "refs/refs/pr/1"), commit);
  EXPECT_FALSE(std::filesystem::exists(cache.folder() / "refs" / commit));
  std::ofstream(cache.folder() / "refs/main") << "../../../etc";
  EXPECT_FALSE(cache.commit_of("main"));
}

}  // namespace shadowkv::testing
