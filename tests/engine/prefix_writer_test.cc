// Files that are written by a thread of its own are those that were to be written, or none.
#include "engine/prefix_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <random>

#include "base/device.h"
#include "engine/state_transfer.h"
#include "formats/temporary_file.h"

namespace shadowkv::testing {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using ::testing::HasSubstr;
using Clock = PrefixWriter::Clock;

std::vector<std::byte> random_bytes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Odd lengths, some of them none.
std::vector<MemoryPiece> cut(std::vector<std::byte>& bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<MemoryPiece> pieces;
  for (int64_t at = 0; at < std::ssize(bytes);) {
    const int64_t most = random() % 4 == 0 ? 3 : 2'000'000;
    const int64_t count = std::min<int64_t>(std::ssize(bytes) - at, static_cast<int64_t>(random()) % most);
    pieces.push_back({bytes.data() + at, count});
    at += count;
  }
  return pieces;
}

class PrefixWriters : public ::testing::Test {
 protected:
  void begin(int64_t bytes) {
    const StateDescription of{.model = "small",
                              .fingerprint = "0123",
                              .dtype = "float32",
                              .attention = "method=full",
                              .tokens = 1,
                              .ids = 1,
                              .numbers = {}};
    writer_->begin({.path = path_, .description = of, .content_bytes = bytes});
  }
  // Gives all of it.
  void give(std::span<const MemoryPiece> pieces, int64_t bytes) {
    for (int64_t given = 0; given < bytes;) {
      const std::span<std::byte> to = writer_->place(Clock::now() + 1min);
      ASSERT_FALSE(to.empty());
      copy_from_content(pieces, given, to, device_->compute());
      given += std::ssize(to);
      writer_->give();
    }
    EXPECT_TRUE(writer_->place(Clock::now() + 1min).empty()) << "all is given";
  }

  TemporaryFolder folder_;
  fs::path path_ = folder_.path() / "file";
  std::unique_ptr<Device> device_ = make_cpu_device({.threads = 1});
  std::atomic<int> news_ = 0;
  std::unique_ptr<PrefixWriter> writer_ = std::make_unique<PrefixWriter>([this] { ++news_; });
};

TEST_F(PrefixWriters, WriteWhatTheyAreGiven) {
  for (const int64_t bytes : {int64_t{5}, kPrefixPieceBytes, 3 * kPrefixPieceBytes + 12345}) {
    std::vector<std::byte> content = random_bytes(bytes, 1), again = random_bytes(bytes, 2);
    begin(bytes);
    give(cut(content, 3), bytes);
    EXPECT_EQ(writer_->take_end(Clock::now() + 1min), "");
    EXPECT_FALSE(writer_->take_end(Clock::now())) << "once";
    const StateReader file(path_);
    ASSERT_EQ(file.content_bytes(), bytes);
    const std::vector<MemoryPiece> places = cut(again, 4);
    std::vector<std::byte> part(static_cast<std::size_t>(3 * kStateBlockBytes));
    for (int64_t read = 0; read < bytes;) {
      const int64_t count = std::min(std::ssize(part), bytes - read);
      const auto to = std::span(part).first(static_cast<std::size_t>(count));
      file.read(read / kStateBlockBytes, to, device_->threads());
      copy_to_content(places, read, to, device_->compute());
      read += count;
    }
    EXPECT_EQ(content, again);
  }
  EXPECT_GE(news_, 3);
}

TEST_F(PrefixWriters, WaitNoLongerThanTheyMay) {
  begin(5 * kPrefixPieceBytes);
  int64_t given = 0;
  for (; given < 5 && !writer_->place(Clock::now()).empty(); ++given) writer_->give();
  EXPECT_GE(given, 2) << "there are two places";
  EXPECT_FALSE(writer_->take_end(Clock::now()));
}

TEST_F(PrefixWriters, LeaveNothingOfWhatIsGivenUp) {
  begin(3 * kPrefixPieceBytes);
  ASSERT_FALSE(writer_->place(Clock::now()).empty());
  writer_->give();
  writer_->abandon();
  EXPECT_NE(writer_->take_end(Clock::now() + 1min), "");
  EXPECT_TRUE(fs::is_empty(folder_.path()));
  begin(3 * kPrefixPieceBytes);
  writer_.reset();
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(PrefixWriters, EndWhatWasGivenWhenTheyEnd) {
  for (const int64_t bytes : {int64_t{5}, kPrefixPieceBytes + 1, 3 * kPrefixPieceBytes}) {
    std::vector<std::byte> content = random_bytes(bytes, 1);
    begin(bytes);
    give(cut(content, 3), bytes);
    writer_ = nullptr;
    EXPECT_EQ(StateReader(path_).content_bytes(), bytes);
    fs::remove(path_);
    EXPECT_TRUE(fs::is_empty(folder_.path()));
    writer_ = std::make_unique<PrefixWriter>([this] { ++news_; });
  }
}

TEST_F(PrefixWriters, SayWhyThereIsNoFile) {
  path_ = folder_.path() / "no" / "such" / "folder";
  begin(kPrefixPieceBytes);
  const auto end = writer_->take_end(Clock::now() + 1min);
  ASSERT_TRUE(end);
  EXPECT_THAT(*end, HasSubstr("cannot write"));
  path_ = folder_.path() / "file";
  std::vector<std::byte> content = random_bytes(100, 1);
  begin(100);
  give(cut(content, 1), 100);
  EXPECT_EQ(writer_->take_end(Clock::now() + 1min), "") << "the next one is";
}

}  // namespace
}  // namespace shadowkv::testing
