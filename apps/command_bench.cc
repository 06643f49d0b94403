// shadowkv bench: what it can time.
#include "commands.h"

namespace shadowkv::apps {

Command add_bench(CLI::App& root) {
  CLI::App& app = add_command_group(
      root, "bench",
      "Time decode steps, prefill, single ops, or many requests at once, on a model or a named shape.");
  return {&app,
          {},
          {add_bench_decode(app), add_bench_prefill(app), add_bench_kernels(app), add_bench_serve(app),
           add_bench_client(app)}};
}

}  // namespace shadowkv::apps
