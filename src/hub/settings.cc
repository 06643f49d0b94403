#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "base/bytes.h"
#include "base/check.h"
#include "formats/quote.h"
#include "shadowkv/hub.h"

namespace shadowkv {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// The first of the variables that is set to something.
std::string first_of(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (std::string value = variable(name); !value.empty()) return value;
  }
  return {};
}

bool is_true(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

fs::path expanded(const std::string& path) {
  const std::string home = variable("HOME");
  if (path == "~" || path.starts_with("~/")) return home + path.substr(1);
  return path;
}

fs::path home_folder() {
  if (const std::string home = variable("HF_HOME"); !home.empty()) return expanded(home);
  const std::string cache = variable("XDG_CACHE_HOME");
  const fs::path folder = cache.empty() ? expanded("~/.cache") : expanded(cache);
  return folder / "huggingface";
}

std::string trimmed(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

std::string find_token(const fs::path& home) {
  std::string token = trimmed(first_of({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}));
  std::string where = "HF_TOKEN";
  if (token.empty()) {
    const std::string named = variable("HF_TOKEN_PATH");
    const fs::path path = named.empty() ? home / "token" : expanded(named);
    std::ifstream file(path, std::ios::binary);
    char text[4096];
    file.read(text, sizeof(text));
    token = trimmed(std::string(text, static_cast<std::size_t>(file.gcount())));
    where = path.string();
  }
  require(std::all_of(token.begin(), token.end(), [](char c) { return c > 0x20 && c < 0x7f; }),
          "the token of {} holds blanks or characters that are no token's; set it again", where);
  return token;
}

std::string find_endpoint() {
  std::string endpoint = variable("HF_ENDPOINT");
  if (endpoint.empty()) return HubOptions{}.endpoint;
  while (endpoint.ends_with('/')) endpoint.pop_back();
  require(endpoint.starts_with("https://") || endpoint.starts_with("http://"),
          "HF_ENDPOINT is {}; it must begin with https:// or http://", in_quotes(endpoint));
  return endpoint;
}

template <typename T>
void read_number(const char* name, T least, T most, T& value) {
  const std::string text = variable(name);
  if (text.empty()) return;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  require(error == std::errc() && rest == end && value >= least && value <= most,
          "{} is {}; it must be a number from {} to {}", name, in_quotes(text), least, most);
}

void read_limits(HubOptions& options) {
  read_number<double>("HF_HUB_ETAG_TIMEOUT", 0.01, 86400, options.answer_timeout_s);
  read_number<double>("HF_HUB_DOWNLOAD_TIMEOUT", 0.01, 86400, options.stall_timeout_s);
  read_number<int64_t>("SHADOWKV_HUB_CONNECTIONS", 1, 64, options.connections);
  read_number<int64_t>("SHADOWKV_HUB_RETRIES", 0, 1000, options.retries);
  read_number<double>("SHADOWKV_HUB_PAUSE", 0, 3600, options.first_pause_s);
  const std::string part = variable("SHADOWKV_HUB_PART");
  if (part.empty()) return;
  options.part_bytes = parse_bytes(part, "SHADOWKV_HUB_PART");
  require(options.part_bytes >= 4096, "SHADOWKV_HUB_PART is {}; it must be at least 4K", in_quotes(part));
}

}  // namespace

HubOptions hub_options_from_environment() {
  HubOptions options;
  const fs::path home = home_folder();
  const std::string cache = first_of({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"});
  options.cache = cache.empty() ? home / "hub" : expanded(cache);
  options.endpoint = find_endpoint();
  options.offline = is_true(first_of({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}));
  if (!is_true(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) options.token = find_token(home);
  read_limits(options);
  return options;
}

}  // namespace shadowkv
