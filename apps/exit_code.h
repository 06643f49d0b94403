// The one place where failures become exit codes: 2 bad input, more than the memory budgets hold included,
// 3 the machine's own memory ran out, 4 device failure (a GPU that is lost for good, a disk that is full, a
// network that fails), 130 interrupted, 1 anything else.
#pragma once

#include <functional>
#include <string>

namespace shadowkv::apps {

// Runs the program's body. What it throws becomes one line "shadowkv: message" on stderr and an exit code.
[[nodiscard]] int run_and_report(const std::function<int()>& body);

// The text with line ends turned to spaces, so that a message stays one line.
[[nodiscard]] std::string one_line(std::string text);

}  // namespace shadowkv::apps
