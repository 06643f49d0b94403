#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "npy.h"
#include "output_file.h"
#include "shadowkv/error.h"
#include "support/npy.h"

namespace shadowkv::apps {
namespace {

// A folder that dies with the test.
class OutputFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("shadowkv-output-" + std::to_string(getpid()));
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] int64_t entries() const {
    return std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator());
  }

  std::filesystem::path folder_;
};

TEST_F(OutputFolder, AFileAppearsOnlyWhenCommitted) {
  const auto path = folder_ / "out.txt";
  {
    OutputFile file(path);
    file.stream() << "half";
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  EXPECT_EQ(entries(), 0);
  OutputFile file(path);
  file.stream() << "whole";
  file.commit();
  EXPECT_EQ(entries(), 1);
  EXPECT_EQ(std::filesystem::file_size(path), 5u);
}

TEST_F(OutputFolder, APlaceThatCannotBeWrittenIsRefusedAtOnce) {
  EXPECT_THROW(OutputFile{folder_}, InvalidInput);
  EXPECT_THROW(OutputFile{folder_ / "missing" / "out.txt"}, InvalidInput);
  EXPECT_THROW(OutputFile{"/dev/null"}, InvalidInput) << "a device must not be replaced by a file";
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST_F(OutputFolder, AnArrayIsReadBackWithItsShape) {
  const auto path = folder_ / "array.npy";
  const std::vector<float> values = {1.5f, -2, 3, 4, 5, 6};
  {
    std::ofstream out(path, std::ios::binary);
    write_npy(out, values, 2, 3);
  }
  const auto array = shadowkv::testing::read_npy<float>(path);
  EXPECT_EQ(array.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(array.values, values);
  EXPECT_EQ((std::filesystem::file_size(path) - 24) % 64, 0u);  // the data begins at a multiple of 64
  std::ofstream out(path, std::ios::binary);
  EXPECT_THROW(write_npy(out, values, 4, 3), InvalidInput);
}

}  // namespace
}  // namespace shadowkv::apps
