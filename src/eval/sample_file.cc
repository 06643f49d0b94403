#include "eval/sample_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "eval/corpus.h"
#include "eval/ruler.h"
#include "eval/text.h"
#include "formats/json.h"

namespace shadowkv::eval {
namespace {

using Json = nlohmann::json;

// One line of a file, for messages.
class Line {
 public:
  Line(const Json& json, std::string place) : json_(json), place_(std::move(place)) {
    require(json_.is_object(), "{} is no JSON object with input and outputs", place_);
  }

  [[nodiscard]] const Json* find(const char* name) const {
    const auto found = json_.find(name);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  [[nodiscard]] std::string text(const char* name, std::string fallback) const {
    const Json* value = find(name);
    if (value == nullptr) return fallback;
    require(value->is_string(), "{}: \"{}\" is no text", place_, name);
    return value->get<std::string>();
  }
  [[nodiscard]] int64_t whole(const char* name, int64_t fallback) const {
    const Json* value = find(name);
    if (value == nullptr) return fallback;
    require(value->is_number_integer() && *value >= 0 && *value <= (int64_t{1} << 40),
            "{}: \"{}\" is no count", place_, name);
    return value->get<int64_t>();
  }
  [[nodiscard]] std::vector<std::string> references() const {
    for (const char* name : {"outputs", "answers", "answer"}) {
      if (const Json* value = find(name)) return texts(*value, name);
    }
    throw InvalidInput(fmt::format("{} has no \"outputs\" to score against", place_));
  }
  [[nodiscard]] const std::string& place() const { return place_; }

 private:
  [[nodiscard]] std::vector<std::string> texts(const Json& value, const char* name) const {
    std::vector<std::string> all;
    if (value.is_string()) return {value.get<std::string>()};
    require(value.is_array() && !value.empty(), "{}: \"{}\" is no list of texts", place_, name);
    for (const Json& one : value) {
      require(one.is_string(), "{}: \"{}\" is no list of texts", place_, name);
      all.push_back(one.get<std::string>());
    }
    return all;
  }

  const Json& json_;
  std::string place_;
};

bool is_task(const std::string& name) {
  const std::vector<std::string>& known = ruler_tasks();
  return std::find(known.begin(), known.end(), name) != known.end();
}

// RULER writes TASK/validation.jsonl.
std::string task_of_folder(const std::filesystem::path& path) {
  std::string folder = std::filesystem::absolute(path).parent_path().filename().string();
  return is_task(folder) ? folder : std::string();
}

// Where a file says only how long a sample has become, not what for: 3,181 tokens were made for 4,096.
int64_t next_power_of_two(int64_t tokens) {
  return tokens == 0 ? 0 : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens)));
}

// Files with gen_prefix cut off the blank before it.
std::string spaced(const std::string& prefix) {
  return prefix.empty() || prefix.starts_with(' ') ? prefix : " " + prefix;
}

Sample sample_of(const Line& line, const std::string& task, int64_t index) {
  Sample sample;
  sample.task = line.text("task", task);
  require(!sample.task.empty(), "{} names no \"task\"; add one, or give it with --tasks; known are {}",
          line.place(), join(ruler_tasks(), ", "));
  const TaskFacts facts = ruler_facts(sample.task);
  sample.metric = facts.metric;
  sample.max_new_tokens = line.whole("max_new_tokens", facts.max_new_tokens);
  sample.length = line.whole("max_length", next_power_of_two(line.whole("length", 0)));
  sample.index = line.whole("index", index);
  require(line.find("input") != nullptr, "{} has no \"input\"", line.place());
  sample.prompt.question = line.text("input", "");
  sample.prompt.answer_prefix = line.text("answer_prefix", spaced(line.text("gen_prefix", "")));
  sample.outputs = line.references();
  return sample;
}

}  // namespace

std::vector<Sample> read_samples(const std::filesystem::path& path, const SampleFileOptions& options) {
  const std::string text = read_data_file(path, "");
  const std::string task = options.task.empty() ? task_of_folder(path) : options.task;
  std::vector<Sample> samples;
  int64_t number = 0;
  for (const std::string& one : split_lines(text)) {
    const std::string place = fmt::format("{}, sample {}", path.string(), ++number);
    const JsonDocument json = parse_json(one, place);
    samples.push_back(sample_of(Line(*json, place), task, number - 1));
  }
  require(!samples.empty(), "{} holds no samples", path.string());
  return samples;
}

std::string sample_line(const Sample& sample) {
  const nlohmann::ordered_json json = {{"task", sample.task},
                                       {"index", sample.index},
                                       {"max_length", sample.length},
                                       {"input", sample.prompt.question},
                                       {"answer_prefix", sample.prompt.answer_prefix},
                                       {"outputs", sample.outputs},
                                       {"max_new_tokens", sample.max_new_tokens}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace shadowkv::eval
