#include "eval/result_file.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <system_error>

#include "base/check.h"
#include "eval/corpus.h"
#include "formats/json.h"

namespace shadowkv::eval {
namespace {

using Json = nlohmann::json;

Result result_of(const Json& json, const std::string& place) {
  try {
    Result r;
    json.at("run").get_to(r.run);
    json.at("prompt_hash").get_to(r.prompt_hash);
    json.at("task").get_to(r.task);
    json.at("length").get_to(r.length);
    json.at("index").get_to(r.index);
    json.at("method").get_to(r.method);
    json.at("prompt_tokens").get_to(r.prompt_tokens);
    json.at("output").get_to(r.output);
    json.at("references").get_to(r.references);
    json.at("scoring").get_to(r.scoring);
    json.at("score").get_to(r.score);
    json.at("output_tokens").get_to(r.output_tokens);
    json.at("prefill_seconds").get_to(r.prefill_seconds);
    json.at("decode_seconds").get_to(r.decode_seconds);
    json.at("device_bytes").get_to(r.device_bytes);
    json.at("host_bytes").get_to(r.host_bytes);
    return r;
  } catch (const Json::exception& error) {
    throw InvalidInput(
        fmt::format("{} is no result of an evaluation ({}); name another file", place, error.what()));
  }
}

std::vector<Result> parse_results(std::string_view text, const std::filesystem::path& path) {
  std::vector<Result> results;
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::size_t end = text.find('\n');
    const std::string place = fmt::format("{}, line {}", path.string(), number);
    results.push_back(result_of(*parse_json(text.substr(0, end), place), place));
    text.remove_prefix(end + 1);
  }
  return results;
}

}  // namespace

std::string result_line(const Result& r) {
  const nlohmann::ordered_json json = {{"run", r.run},
                                       {"prompt_hash", r.prompt_hash},
                                       {"task", r.task},
                                       {"length", r.length},
                                       {"index", r.index},
                                       {"method", r.method},
                                       {"prompt_tokens", r.prompt_tokens},
                                       {"output", r.output},
                                       {"references", r.references},
                                       {"scoring", r.scoring},
                                       {"score", r.score},
                                       {"output_tokens", r.output_tokens},
                                       {"prefill_seconds", r.prefill_seconds},
                                       {"decode_seconds", r.decode_seconds},
                                       {"device_bytes", r.device_bytes},
                                       {"host_bytes", r.host_bytes}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

ResultFile::ResultFile(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code error;
  if (std::filesystem::exists(path_, error)) {
    std::string text = read_data_file(path_, "");
    const std::size_t whole = text.rfind('\n') + 1;  // 0 where not even the first line was finished
    results_ = parse_results(std::string_view(text).substr(0, whole), path_);
    if (whole < text.size()) std::filesystem::resize_file(path_, whole, error);
    if (error) throw DeviceFailure(fmt::format("cannot cut {}: {}", path_.string(), error.message()));
  }
  stream_.open(path_, std::ios::binary | std::ios::app);
  require(stream_.is_open(), "cannot write {}; choose another place", path_.string());
}

void ResultFile::append(const Result& result) {
  if (stream_.is_open()) stream_ << result_line(result) << std::flush;
  if (!stream_) throw DeviceFailure(fmt::format("writing {} failed; is the disk full?", path_.string()));
  results_.push_back(result);
}

}  // namespace shadowkv::eval
