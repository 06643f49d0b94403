#include <fmt/core.h>

#include <algorithm>

#include "hub/names.h"
#include "shadowkv/hub.h"

namespace shadowkv {
namespace {

bool is_letter_or_digit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool consists_of(std::string_view text, std::string_view others) {
  return std::all_of(text.begin(), text.end(), [others](char c) {
    return is_letter_or_digit(c) || others.find(c) != std::string_view::npos;
  });
}

bool is_name_part(std::string_view part) {
  return !part.empty() && consists_of(part, "-_.") && !part.starts_with('-') && !part.starts_with('.') &&
         !part.ends_with('-') && !part.ends_with('.') && part.find("--") == part.npos &&
         part.find("..") == part.npos;
}

bool is_plain_component(std::string_view part) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  return !part.empty() && part.size() <= 255 && part != "." && part != ".." && part.find('\\') == part.npos &&
         std::none_of(part.begin(), part.end(), is_control);
}

}  // namespace

bool is_repository_name(std::string_view name) {
  const std::size_t slash = name.find('/');
  return slash != name.npos && name.size() <= 96 && is_name_part(name.substr(0, slash)) &&
         is_name_part(name.substr(slash + 1)) && !name.ends_with(".git");
}

bool is_revision(std::string_view name) {
  return is_safe_path(name) && name.size() <= 255 && consists_of(name, "-_./+") && !name.starts_with('-');
}

bool is_hex(std::string_view text, std::size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

bool is_commit(std::string_view name) {
  return is_hex(name, 40);
}

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > 1024) return false;
  std::size_t begin = 0;
  while (begin <= path.size()) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    if (!is_plain_component(path.substr(begin, end - begin))) return false;
    begin = end + 1;
  }
  return true;
}

std::string percent_encoded(std::string_view text, bool keep_slashes) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = is_letter_or_digit(c) || std::string_view("-._~").find(c) != std::string_view::npos ||
                       (c == '/' && keep_slashes);
    encoded += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return encoded;
}

std::optional<HubModel> parse_hub_model(std::string_view text) {
  HubModel model;
  const std::size_t colon = text.find(':');
  if (colon != text.npos) {
    model.file = text.substr(colon + 1);
    if (!is_safe_path(model.file)) return std::nullopt;
  }
  const std::string_view place = text.substr(0, colon);
  const std::size_t at = place.find('@');
  if (at != place.npos) {
    model.revision = place.substr(at + 1);
    if (!is_revision(model.revision)) return std::nullopt;
  }
  model.repository = place.substr(0, at);
  // A file that was mistyped is no name: asking a hub for it would only hide the mistake.
  if (!is_repository_name(model.repository) || model.repository.ends_with(".gguf")) return std::nullopt;
  return model;
}

}  // namespace shadowkv
