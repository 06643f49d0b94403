// Samples as JSON lines: `input` and `outputs`, and what a task would otherwise say, in RULER's own layout
// too.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "eval/sample.h"

namespace shadowkv::eval {

// What is known of the samples beside the file.
struct SampleFileOptions {
  std::string task;  // of lines that name none; empty: the name of the file's folder where it is a task
};

// Reads a file of samples. Fields: input (text), outputs (a text or a list; also `answer` and `answers`),
// task, index, max_length (else the next power of two of length), answer_prefix or gen_prefix,
// max_new_tokens. Throws InvalidInput with file and line for what is not such a sample, and for an unknown
// task with the known ones.
[[nodiscard]] std::vector<Sample> read_samples(const std::filesystem::path& path,
                                               const SampleFileOptions& options);

// One line, with its end: what read_samples reads back the same.
[[nodiscard]] std::string sample_line(const Sample& sample);

}  // namespace shadowkv::eval
