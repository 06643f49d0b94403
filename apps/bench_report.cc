#include "bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iostream>

namespace shadowkv::apps {

std::string percent(double share) {
  return fmt::format("{:.1f} %", 100 * share);
}

std::string gigabytes(double per_s) {
  const double giga = per_s / 1e9;
  return fmt::format("{:.{}f}", giga, giga < 10 ? 2 : giga < 100 ? 1 : 0);
}

MethodNames::MethodNames(std::span<const NamedMethod> methods) {
  constexpr std::size_t kLongest = 40;
  for (const NamedMethod& method : methods) labels_.push_back(method.label);
  numbered_ = std::any_of(labels_.begin(), labels_.end(),
                          [](const std::string& label) { return label.size() > kLongest; });
}

std::string MethodNames::of(const std::string& label) const {
  if (!numbered_) return label;
  return fmt::format("method {}", std::find(labels_.begin(), labels_.end(), label) - labels_.begin() + 1);
}

std::string MethodNames::legend() const {
  std::string text;
  for (const std::string& label : labels_) {
    if (numbered_) text += fmt::format("{}: {}\n", of(label), label);
  }
  return text;
}

std::string ceilings_line(const Ceilings& ceilings) {
  std::string gathered;
  for (const GatherCeiling& one : ceilings.link_gather) {
    gathered += fmt::format("{}{} in {} B", gathered.empty() ? "" : ", ", gigabytes(one.bytes_per_s),
                            one.piece_bytes);
  }
  return fmt::format(
      "ceilings of this run: device memory {} GB/s read; host link {} GB/s copied, gathered in pieces {}; "
      "bfloat16 products {:.4g} TFLOP/s\n",
      gigabytes(ceilings.device_read), gigabytes(ceilings.link_copy), gathered, ceilings.product / 1e12);
}

Json to_json(const Ceilings& ceilings) {
  Json gather = Json::array();
  for (const GatherCeiling& one : ceilings.link_gather) {
    gather.push_back({{"piece_bytes", one.piece_bytes}, {"bytes_per_s", one.bytes_per_s}});
  }
  return {{"device_read_bytes_per_s", ceilings.device_read},
          {"link_copy_bytes_per_s", ceilings.link_copy},
          {"link_gather", gather},
          {"product_flop_per_s", ceilings.product}};
}

Json to_json(const StepTimes& times) {
  return {{"median", times.median()},
          {"min", times.at(0)},
          {"max", times.at(1)},
          {"p10", times.at(0.1)},
          {"p90", times.at(0.9)}};
}

Json to_json(const OpTime& time) {
  Json json = {{"op", time.op}};
  if (time.rows > 0) json["matrix"] = {time.rows, time.columns};
  json["runs"] = time.runs;
  json["us_a_run"] = 1e6 * time.seconds / static_cast<double>(time.runs);
  json["ms"] = 1e3 * time.seconds;
  return json;
}

Json attention_json(std::span<const NamedMethod> methods) {
  Json json = Json::object();
  for (const NamedMethod& method : methods) json[method.label] = to_json(method.config);
  return json;
}

Json head_json(const Engine& engine, const BenchArguments& a) {
  return {{"model", to_json(engine.model())},
          {"device", a.engine.device},
          {"dtype", a.engine.dtype},
          {"weights", a.engine.weights},
          {"random_weights", !a.engine.shape.empty()},
          {"steps", a.steps},
          {"warmup", a.warmup},
          {"sampling", a.sampling}};
}

BenchOutput::BenchOutput(const std::string& json) : only_json_(json == "-") {
  if (!json.empty() && !only_json_) file_.emplace(json);
}

void BenchOutput::print(const Json& json, const std::string& text) {
  if (only_json_) return print_json(json);
  if (file_) {
    file_->stream() << dump(json) << "\n";
    file_->commit();
  }
  std::cout << text;
}

}  // namespace shadowkv::apps
