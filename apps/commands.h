// The program's subcommands. Each function declares one and its options.
#pragma once

#include "args.h"

namespace shadowkv::apps {

[[nodiscard]] Command add_generate(CLI::App& root);
[[nodiscard]] Command add_chat(CLI::App& root);
[[nodiscard]] Command add_compare(CLI::App& root);
[[nodiscard]] Command add_fidelity(CLI::App& parent);
[[nodiscard]] Command add_tokenize(CLI::App& root);
[[nodiscard]] Command add_detokenize(CLI::App& root);
[[nodiscard]] Command add_info(CLI::App& root);
[[nodiscard]] Command add_download(CLI::App& root);
[[nodiscard]] Command add_serve(CLI::App& root);
[[nodiscard]] Command add_bench(CLI::App& root);
[[nodiscard]] Command add_eval(CLI::App& root);
[[nodiscard]] Command add_eval_ruler(CLI::App& eval);
[[nodiscard]] Command add_eval_needle(CLI::App& eval);
[[nodiscard]] Command add_eval_kv(CLI::App& eval);
[[nodiscard]] Command add_eval_babilong(CLI::App& eval);
[[nodiscard]] Command add_eval_longbench(CLI::App& eval);
[[nodiscard]] Command add_bench_decode(CLI::App& bench);
[[nodiscard]] Command add_bench_prefill(CLI::App& bench);
[[nodiscard]] Command add_bench_kernels(CLI::App& bench);
[[nodiscard]] Command add_bench_serve(CLI::App& bench);
[[nodiscard]] Command add_bench_client(CLI::App& bench);

}  // namespace shadowkv::apps
