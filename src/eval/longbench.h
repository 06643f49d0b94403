// LongBench (first version): 21 tasks over documents of their own, from its files or from finished prompts.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "eval/sample.h"

namespace shadowkv::eval {

[[nodiscard]] const std::vector<std::string>& longbench_tasks();
// Those whose reference counts words that a Chinese dictionary finds; here characters stand for them.
[[nodiscard]] bool counts_characters(std::string_view task);
// Those in whose answers nothing counts behind the first line.
[[nodiscard]] bool counts_first_line(std::string_view task);

// Layouts by task, with {context} and {input} in them, as the benchmark's config/dataset2prompt.json has
// them. Throws InvalidInput for what is no such file.
[[nodiscard]] std::map<std::string, std::string> read_layouts(const std::filesystem::path& path);

// Samples of folder/TASK.jsonl: the benchmark's own lines (input, context, answers, all_classes), laid out by
// `layouts`, or finished ones (prompt, answers). Throws InvalidInput with file and line for what is neither,
// for a missing file with its source, for a layout that is missing.
[[nodiscard]] std::vector<Sample> read_longbench(const std::filesystem::path& folder, const std::string& task,
                                                 const std::map<std::string, std::string>& layouts);

// The prompt, or its beginning and end, as many tokens of each, where it has more than `tokens`: cut between
// characters.
[[nodiscard]] Prompt cut_middle(const Prompt& prompt, int64_t tokens, const CountTokens& count);

// How each task scores an output against its references, 0 to 1: the best of them.
[[nodiscard]] double longbench_score(const Sample& sample, std::string_view output);

}  // namespace shadowkv::eval
