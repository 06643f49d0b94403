// What a model answered, one JSON line a sample and method, in a file that a later run goes on with.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv::eval {

struct Result {
  std::string run;  // model, its compute type, device: results of others in the same file are not ours
  std::string prompt_hash;  // 16 hexadecimal digits
  std::string task;
  int64_t length = 0;  // that the sample was made for
  int64_t index = 0;
  std::string method;
  int64_t prompt_tokens = 0;
  std::string output;
  std::vector<std::string> references;
  std::string scoring;
  double score = 0;
  int64_t output_tokens = 0;
  double prefill_seconds = 0;  // shared by the methods of a prompt
  double decode_seconds = 0;
  int64_t device_bytes = 0;  // held by the method's sequence at the answer's end
  int64_t host_bytes = 0;
};

[[nodiscard]] std::string result_line(const Result& result);  // with its end

class ResultFile {
 public:
  ResultFile() = default;  // keeps results in memory alone
  // Reads what the file holds, and makes one where there is none. A last line that was only begun is cut off.
  // Throws InvalidInput naming the line for what is no result, DeviceFailure where the file cannot be
  // written.
  explicit ResultFile(std::filesystem::path path);

  [[nodiscard]] const std::vector<Result>& results() const { return results_; }
  // Writes a whole line at once and hands it to the system.
  void append(const Result& result);

 private:
  std::filesystem::path path_;
  std::vector<Result> results_;
  std::ofstream stream_;
};

}  // namespace shadowkv::eval
