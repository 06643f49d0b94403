// The 13 tasks of the RULER benchmark by name.
#pragma once

#include <string_view>

#include "eval/draw.h"

namespace shadowkv::eval {

[[nodiscard]] const std::vector<std::string>& ruler_tasks();
// The draw's task at the draw's length. Throws InvalidInput naming the known tasks, a missing file of the
// corpus, or a length that is too short.
[[nodiscard]] Sample make_ruler(const Draw& draw);

// Answer tokens and metric of a task, for samples that come from a file. Throws InvalidInput likewise.
struct TaskFacts {
  int64_t max_new_tokens = 0;
  Metric metric = Metric::all;
};
[[nodiscard]] TaskFacts ruler_facts(std::string_view task);

// Reads the files that the task needs, so that a missing one is known before a model is loaded.
void check_data(std::string_view task, Corpus& corpus);

}  // namespace shadowkv::eval
