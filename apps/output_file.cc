#include "output_file.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/check.h"

namespace shadowkv::apps {

OutputFile::OutputFile(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code ignored;
  require(!std::filesystem::is_directory(path_, ignored), "cannot write {}: it is a folder; name a file",
          path_.string());
  require(!std::filesystem::exists(path_, ignored) || std::filesystem::is_regular_file(path_, ignored),
          "cannot write {}: it is no regular file; name a file", path_.string());
  temporary_ = fmt::format("{}.{}.partial", path_.string(), getpid());
  stream_.open(temporary_, std::ios::binary | std::ios::trunc);
  require(stream_.is_open(), "cannot write {}: {}; choose another place", path_.string(),
          std::generic_category().message(errno));
}

OutputFile::~OutputFile() {
  if (committed_) return;
  stream_.close();
  std::error_code ignored;
  std::filesystem::remove(temporary_, ignored);
}

void OutputFile::commit() {
  stream_.close();
  if (!stream_) throw DeviceFailure(fmt::format("writing {} failed; is the disk full?", path_.string()));
  std::error_code error;
  std::filesystem::rename(temporary_, path_, error);
  if (error) throw DeviceFailure(fmt::format("cannot rename {}: {}", temporary_.string(), error.message()));
  committed_ = true;
}

}  // namespace shadowkv::apps
