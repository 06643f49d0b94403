// The program: picks a subcommand, reads its options, runs it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/suggest.h"
#include "commands.h"
#include "exit_code.h"
#include "interrupt.h"

namespace shadowkv::apps {
namespace {

constexpr const char* kExitCodes =
    "Exit codes: 0 done; 2 bad input, or more than the memory budgets hold; 3 the machine's memory ran out; "
    "4 a "
    "GPU, driver, disk or network failed; 130 interrupted; 1 anything else. What went wrong is one line on "
    "stderr.";

std::vector<Command> declare_commands(CLI::App& root) {
  std::vector<Command> commands = {add_generate(root),   add_chat(root), add_compare(root),
                                   add_fidelity(root),   add_eval(root), add_tokenize(root),
                                   add_detokenize(root), add_info(root), add_download(root),
                                   add_serve(root),      add_bench(root)};
  return commands;
}

[[noreturn]] void refuse_command(const CLI::App& parent, const std::vector<Command>& commands) {
  std::vector<std::string> names;
  names.reserve(commands.size());
  for (const Command& command : commands) names.push_back(command.app->get_name());
  const std::vector<std::string> rest = parent.remaining();
  const std::string path = path_of(parent);
  const std::string group = path.empty() ? "" : path + " ";
  if (!rest.empty()) throw InvalidInput(unknown_name(group + "command", rest.front(), names));
  throw InvalidInput(fmt::format("no {}command is given; choose {}, or see shadowkv {}--help", group,
                                 fmt::join(names, ", "), group));
}

void check_stdout() {
  std::cout.flush();
  if (!std::cout) throw DeviceFailure("standard output cannot be written; is the disk full?");
}

// Runs the command that was named, looking into groups.
void dispatch(const CLI::App& parent, const std::vector<Command>& commands) {
  const auto named = std::find_if(commands.begin(), commands.end(),
                                  [](const Command& command) { return command.app->parsed(); });
  if (named == commands.end()) refuse_command(parent, commands);
  if (!named->commands.empty()) return dispatch(*named->app, named->commands);
  finish_options(*named->app);
  named->run();
}

int run(int argc, char** argv) {
  CLI::App root(
      "Long-context language models on little GPU memory: keys as low-rank factors, values where there is "
      "room, exact attention over the few chunks that matter.",
      "shadowkv");
  root.allow_extras();
  root.set_version_flag("--version", std::string(version()));
  root.get_formatter()->column_width(44);
  root.footer(kExitCodes);
  const std::vector<Command> commands = declare_commands(root);
  try {
    root.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // --help, --version
    return root.exit(asked);
  }
  dispatch(root, commands);
  check_stdout();
  return 0;
}

}  // namespace
}  // namespace shadowkv::apps

int main(int argc, char** argv) {
  using namespace shadowkv::apps;
  install_interrupt_handler();
  return run_and_report([&] { return run(argc, argv); });
}
