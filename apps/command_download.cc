// shadowkv download: fetches a model by name and says where it lies.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "base/check.h"
#include "commands.h"
#include "json_output.h"
#include "named_model.h"

namespace shadowkv::apps {
namespace {

struct Arguments {
  std::string name;
  bool json = false;
};

void run(const Arguments& a) {
  require(!a.name.empty(), "no model is named; give org/name, such as HuggingFaceTB/SmolLM2-135M-Instruct");
  const std::optional<HubModel> named = parse_hub_model(a.name);
  require(named.has_value(),
          "\"{}\" is no name of a model; it must be org/name, org/name@revision or org/name:FILE", a.name);
  const HubFiles files = fetch_named(*named, a.name);
  if (!a.json) {
    std::cout << files.model.string() << "\n";
    return;
  }
  print_json({{"model", files.model.string()},
              {"repository", named->repository},
              {"revision", named->revision},
              {"commit", files.commit},
              {"fetched_bytes", files.fetched_bytes}});
}

}  // namespace

Command add_download(CLI::App& root) {
  CLI::App& app =
      add_subcommand(root, "download",
                     "Fetch a model by name into the cache, and print the path that --model takes. "
                     "What is there already is not fetched again; what was cut goes on where it was.");
  const auto arguments = std::make_shared<Arguments>();
  app.add_option_function<std::string>(
         "name", [arguments](const std::string& value) { arguments->name = value; },
         "org/name, with @REVISION for a branch, tag or commit, and :FILE for one GGUF file of several, by "
         "name or "
         "by a part such as Q8_0")
      ->option_text("NAME");
  add_flag(app, {"--json", "", "Print one JSON object: the path, the commit, what was fetched", ""},
           arguments->json);
  app.footer(kHubVariables);
  return {&app, [arguments] { run(*arguments); }};
}

}  // namespace shadowkv::apps
