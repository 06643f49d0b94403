// shadowkv eval: benchmarks of accuracy.
#include "commands.h"

namespace shadowkv::apps {

Command add_eval(CLI::App& root) {
  CLI::App& app =
      add_command_group(root, "eval",
                        "Measure what methods answer right on long contexts, on the same prompts after one "
                        "exact prefill.");
  return {&app,
          {},
          {add_eval_ruler(app), add_eval_needle(app), add_eval_kv(app), add_eval_babilong(app),
           add_eval_longbench(app), add_fidelity(app)}};
}

}  // namespace shadowkv::apps
