// How the kinds of bench print what they measured.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bench_run.h"
#include "json_output.h"
#include "output_file.h"
#include "shadowkv/ceilings.h"

namespace shadowkv::apps {

[[nodiscard]] std::string percent(double share);    // "61.3 %"
[[nodiscard]] std::string gigabytes(double per_s);  // "3,012" as 3012 GB/s, with decimals below 100
// What tables call methods: their labels, or "method 1", ... where a label is too long for a line; then the
// legend says which is which.
class MethodNames {
 public:
  explicit MethodNames(std::span<const NamedMethod> methods);
  [[nodiscard]] std::string of(const std::string& label) const;
  [[nodiscard]] std::string legend() const;  // lines, or empty

 private:
  std::vector<std::string> labels_;
  bool numbered_;
};

[[nodiscard]] std::string ceilings_line(const Ceilings& ceilings);
[[nodiscard]] Json to_json(const Ceilings& ceilings);
[[nodiscard]] Json to_json(const StepTimes& times);  // median, min, max, p10, p90
[[nodiscard]] Json to_json(const OpTime& time);
[[nodiscard]] Json attention_json(std::span<const NamedMethod> methods);  // settings by label
// What every kind reports first: model, device, dtype, steps.
[[nodiscard]] Json head_json(const Engine& engine, const BenchArguments& a);

// Where results go: created before anything is measured, so that nothing is measured in vain.
class BenchOutput {
 public:
  explicit BenchOutput(const std::string& json);  // as --json says: a file, "-" or empty
  // The JSON alone to stdout, or into its file with the text to stdout.
  void print(const Json& json, const std::string& text);

 private:
  bool only_json_;
  std::optional<OutputFile> file_;
};

}  // namespace shadowkv::apps
