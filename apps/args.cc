#include "args.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <functional>
#include <type_traits>

#include "base/bytes.h"
#include "base/check.h"
#include "base/suggest.h"
#include "named_model.h"
#include "shadowkv/devices.h"

namespace shadowkv::apps {
namespace {

template <typename T>
std::string describe(Range<T> range) {
  const std::string_view kind = std::is_integral_v<T> ? "a whole number" : "a number";
  const std::string_view start = range.open ? "above" : "of at least";
  if (range.most == std::numeric_limits<T>::max()) return fmt::format("{} {} {}", kind, start, range.least);
  if (range.open) return fmt::format("{} above {} and up to {}", kind, range.least, range.most);
  return fmt::format("{} from {} to {}", kind, range.least, range.most);
}

template <typename T>
T parse_number(std::string_view text, std::string_view option, Range<T> range) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  const bool above = range.open ? value > range.least : value >= range.least;
  require(error == std::errc() && rest == end && above && value <= range.most, "{} is \"{}\"; it must be {}",
          option, text, describe(range));
  return value;
}

CLI::Option* add(CLI::App& app, const OptionText& text, const std::string& shown_default,
                 const std::function<void(const std::string&)>& read) {
  CLI::Option* option = app.add_option_function<std::string>(text.flags, read, text.help);
  option->type_name(text.unit);
  option->option_text(shown_default.empty() ? text.unit
                                            : fmt::format("{} [default: {}]", text.unit, shown_default));
  if (!text.group.empty()) option->group(text.group);
  return option;
}

// The long name: "--rank" of "-r,--rank,--width".
std::string flag_of(const OptionText& text) {
  const std::size_t start = text.flags.find("--");
  return text.flags.substr(start, text.flags.find(',', start) - start);
}

std::vector<std::string> long_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      if (name != "help" && name != "config") names.push_back(name);
    }
  }
  return names;
}

void refuse_unknown_arguments(const CLI::App& app) {
  const std::vector<std::string> rest = app.remaining();
  if (rest.empty()) return;
  const std::string& first = rest.front();
  require(first.starts_with("-"), "shadowkv {}: nothing takes the argument \"{}\"; see shadowkv {} --help",
          path_of(app), first, path_of(app));
  const std::string asked = first.substr(std::min(first.find_first_not_of('-'), first.size()));
  const std::vector<std::string> names = long_names(app);
  const std::string near(nearest_name(asked.substr(0, asked.find('=')), names));
  throw InvalidInput(fmt::format("shadowkv {} has no option {}{}; see shadowkv {} --help", path_of(app),
                                 first, near.empty() ? "" : fmt::format(" (did you mean --{}?)", near),
                                 path_of(app)));
}

void apply_config_item(CLI::App& app, const std::string& file, const CLI::ConfigItem& item) {
  if (item.name == "++" || item.name == "--") return;  // marks of a section's begin and end
  require(item.name != "config" && item.name != "help", "{} sets \"{}\", which belongs on the command line",
          file, item.name);
  CLI::Option* option = app.get_option_no_throw("--" + item.name);
  if (option == nullptr) {
    throw InvalidInput(fmt::format("{}: {}", file, unknown_name("option", item.name, long_names(app))));
  }
  if (option->count() > 0) return;
  if (option->get_items_expected_max() == 0) {  // a flag: its value is a word
    require(item.inputs.size() == 1, "{}: {} takes true or false", file, item.name);
    option->add_result(option->get_flag_value(item.name, item.inputs.front()));
  } else if (option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll) {
    for (const std::string& input : item.inputs) option->add_result(input);
  } else {
    option->add_result(fmt::format("{}", fmt::join(item.inputs, ",")));
  }
  option->run_callback();
}

// Names from below the program down to the command.
std::vector<std::string> names_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* at = &app; at->get_parent() != nullptr; at = at->get_parent()) {
    names.insert(names.begin(), at->get_name());
  }
  return names;
}

const CLI::App& root_of(const CLI::App& app) {
  const CLI::App* at = &app;
  while (at->get_parent() != nullptr) at = at->get_parent();
  return *at;
}

void apply_config_file(CLI::App& app, const std::string& path) {
  std::ifstream file(path);
  std::error_code ignored;
  require(file.is_open() && !std::filesystem::is_directory(path, ignored),
          "cannot read the config file {}; check --config", path);
  const std::vector<std::string> names = names_of(app);
  for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_config(file)) {
    if (item.parents.size() <= names.size() &&
        std::equal(item.parents.begin(), item.parents.end(), names.begin())) {
      apply_config_item(app, path, item);
      continue;
    }
    const std::string& section = item.parents.front();
    const auto commands = root_of(app).get_subcommands(
        [&section](const CLI::App* other) { return other->get_name() == section; });
    require(!commands.empty(), "{} has a section [{}], but there is no such command", path, section);
  }
}

}  // namespace

CLI::Option* add_text(CLI::App& app, const OptionText& text, std::string& target) {
  return add(app, text, target, [&target](const std::string& value) { target = value; });
}

CLI::Option* add_texts(CLI::App& app, const OptionText& text, std::vector<std::string>& target) {
  CLI::Option* option = app.add_option_function<std::vector<std::string>>(
      text.flags, [&target](const std::vector<std::string>& values) { target = values; }, text.help);
  option->type_name(text.unit)->option_text(text.unit);
  option->type_size(1)->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  option->allow_extra_args(false);  // what follows one value is no other
  if (!text.group.empty()) option->group(text.group);
  return option;
}

CLI::Option* add_seed(CLI::App& app, const OptionText& text, uint64_t& target) {
  return add(app, text, fmt::format("{}", target), [&target, flag = flag_of(text)](const std::string& value) {
    target = static_cast<uint64_t>(parse_whole(value, flag, {0, std::numeric_limits<int64_t>::max()}));
  });
}

CLI::Option* add_path(CLI::App& app, const OptionText& text, std::filesystem::path& target) {
  return add(app, text, target.string(), [&target, flag = flag_of(text)](const std::string& value) {
    require(!value.empty(), "{} is empty; give a path", flag);
    target = value;
  });
}

CLI::Option* add_whole(CLI::App& app, const OptionText& text, Range<int64_t> range, int64_t& target) {
  return add(app, text, fmt::format("{}", target),
             [&target, range, flag = flag_of(text)](const std::string& value) {
               target = parse_number(value, flag, range);
             });
}

CLI::Option* add_real(CLI::App& app, const OptionText& text, Range<double> range, double& target) {
  return add(app, text, fmt::format("{}", target),
             [&target, range, flag = flag_of(text)](const std::string& value) {
               target = parse_number(value, flag, range);
             });
}

CLI::Option* add_bytes(CLI::App& app, const OptionText& text, const std::string& fallback, int64_t& target) {
  return add(app, text, fallback, [&target, flag = flag_of(text)](const std::string& value) {
    target = parse_bytes(value, flag);
    require(target > 0, "{} is \"{}\"; it must be more than 0 bytes, for example 6GiB", flag, value);
  });
}

CLI::Option* add_bytes_or_none(CLI::App& app, const OptionText& text, int64_t& target) {
  return add(app, text, format_bytes(target), [&target, flag = flag_of(text)](const std::string& value) {
    target = parse_bytes(value, flag);
  });
}

CLI::Option* add_flag(CLI::App& app, const OptionText& text, bool& target) {
  CLI::Option* option = app.add_flag(text.flags, target, text.help + " [default: off]");
  if (!text.group.empty()) option->group(text.group);
  return option;
}

void for_each_part(std::string_view text, const std::function<void(std::string_view)>& use) {
  constexpr std::string_view kSeparators = ", \t\r\n";
  std::size_t at = text.find_first_not_of(kSeparators);
  while (at != std::string_view::npos) {
    const std::size_t end = std::min(text.find_first_of(kSeparators, at), text.size());
    use(text.substr(at, end - at));
    at = text.find_first_not_of(kSeparators, end);
  }
}

int64_t parse_whole(std::string_view text, std::string_view option, Range<int64_t> range) {
  return parse_number(text, option, range);
}

double parse_real(std::string_view text, std::string_view option, Range<double> range) {
  return parse_number(text, option, range);
}

std::vector<int32_t> parse_ids(std::string_view text, std::string_view option) {
  std::vector<int32_t> ids;
  for_each_part(text, [&](std::string_view part) {
    ids.push_back(static_cast<int32_t>(parse_whole(part, option, {0, std::numeric_limits<int32_t>::max()})));
  });
  return ids;
}

std::vector<int64_t> parse_wholes(std::string_view text, std::string_view option, Range<int64_t> range) {
  std::vector<int64_t> numbers;
  for_each_part(text, [&](std::string_view part) { numbers.push_back(parse_whole(part, option, range)); });
  require(!numbers.empty(), "{} is empty; give {} or several, separated by commas", option, describe(range));
  return numbers;
}

void add_model_options(CLI::App& app, EngineOptions& options) {
  const std::string group = "Model";
  add_path(app,
           {"-m,--model", "PATH",
            "GGUF file, Hugging Face folder with safetensors files, or a model's name, "
            "org/name[@revision][:file], "
            "which is fetched once (see download --help) [default: none]",
            group},
           options.model);
  add_text(app,
           {"--shape", "NAME",
            "Run a named shape on random weights instead of a model, such as tiny [default: none]", group},
           options.shape);
  add_path(
      app,
      {"--tokenizer", "PATH",
       "tokenizer.json, GGUF or tiktoken rank file to take the tokenizer from [default: the model's own]",
       group},
      options.tokenizer);
  add_path(app,
           {"--chat-template", "FILE",
            "Jinja file to lay out chats by [default: the template that came with the tokenizer]", group},
           options.chat_template);
  add(app,
      {"--device", "NAME",
       "Where to compute: cpu, cuda or cuda:N for a GPU, or auto for a GPU where there is one", group},
      options.device, [&options](const std::string& value) {
        require(is_device_name(value), "--device is \"{}\"; it must be auto, cpu, cuda or cuda:N", value);
        options.device = value;
      });
  add(app, {"--dtype", "TYPE", "Type to compute and store in: float32 or bfloat16", group}, options.dtype,
      [&options](const std::string& value) {
        require(value == "float32" || value == "bfloat16",
                "--dtype is \"{}\"; it must be float32 or bfloat16", value);
        options.dtype = value;
      });
  add(app, {"--weights", "TYPE", "How matrices are kept: dtype, or int8 with a scale a row", group},
      options.weights, [&options](const std::string& value) {
        require(value == "dtype" || value == "int8", "--weights is \"{}\"; it must be dtype or int8", value);
        options.weights = value;
      });
  add(app, {"--threads", "COUNT", "Host threads; 0: one per core", group}, "0",
      [&options](const std::string& value) {
        options.threads = static_cast<int>(parse_whole(value, "--threads", {0, 4096}));
      });
  add_bytes(app, {"--device-memory", "BYTES", "Most memory of the device tier, such as 512M or 6GiB", group},
            "what a GPU has free less 3 GiB, half of the machine's memory on the CPU", options.device_bytes);
  add_bytes(app, {"--host-memory", "BYTES", "Most memory of the host tier, such as 512M or 6GiB", group},
            "half of the machine's memory", options.host_bytes);
  add_seed(app, {"--weights-seed", "NUMBER", "Seed of the random weights of --shape", group}, options.seed);
}

void check_model_options(EngineOptions& options) {
  require(options.model.empty() || options.shape.empty(),
          "both --model {} and --shape {} are given; choose one", options.model.string(), options.shape);
  require(!options.model.empty() || !options.shape.empty(),
          "no model is given; add --model FILE.gguf or --model org/name, or --shape NAME for random weights");
  const std::pair<const char*, const std::filesystem::path*> named[] = {
      {"--tokenizer", &options.tokenizer}, {"--chat-template", &options.chat_template}};
  for (const auto& [option, path] : named) {
    std::error_code ignored;
    require(path->empty() || std::filesystem::exists(*path, ignored),
            "there is no file or folder {}; check {}", path->string(), option);
  }
  if (!options.model.empty()) options.model = local_model(options.model);
}

CLI::App& add_command_group(CLI::App& parent, const std::string& name, const std::string& help) {
  CLI::App* app = parent.add_subcommand(name, help);
  app->allow_extras();
  app->require_subcommand(0, 1);
  return *app;
}

std::string path_of(const CLI::App& app) {
  return fmt::format("{}", fmt::join(names_of(app), " "));
}

CLI::App& add_subcommand(CLI::App& parent, const std::string& name, const std::string& help) {
  CLI::App* app = parent.add_subcommand(name, help);
  app->allow_extras();
  app->add_option("--config",
                  "File of options, one \"name = value\" a line, such as max-new-tokens = 64; the "
                  "command line wins over it")
      ->option_text("FILE [default: none]");
  return *app;
}

void finish_options(CLI::App& app) {
  refuse_unknown_arguments(app);
  const CLI::Option* config = app.get_option("--config");
  if (config->count() > 0) apply_config_file(app, config->results().back());
}

}  // namespace shadowkv::apps
