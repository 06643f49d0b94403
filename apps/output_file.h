// A file that appears whole or not at all: written under a temporary name beside its place, renamed at the
// end.
#pragma once

#include <filesystem>
#include <fstream>

namespace shadowkv::apps {

class OutputFile {
 public:
  // Creates the temporary file; throws InvalidInput when it cannot be, so that nothing is computed in vain.
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();  // removes the temporary file unless committed
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  [[nodiscard]] std::ostream& stream() { return stream_; }
  // Gives the file its name; throws DeviceFailure when the writing failed.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::ofstream stream_;
  bool committed_ = false;
};

}  // namespace shadowkv::apps
