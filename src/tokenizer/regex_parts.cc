#include "tokenizer/regex_parts.h"

#include "base/check.h"
#include "base/utf8.h"

namespace shadowkv {
namespace {

int64_t after_character(std::string_view text, int64_t at) {
  if (at >= static_cast<int64_t>(text.size())) return at + 1;
  return at + read_utf8(text.substr(static_cast<size_t>(at))).length;
}

// Calls `sink` with each match in order.
template <typename Sink>
void for_each_match(const Regex& regex, std::string_view text, Regex::Scratch& scratch, Sink&& sink) {
  const auto size = static_cast<int64_t>(text.size());
  int64_t from = 0;
  int64_t last_end = -1;
  while (from <= size) {
    const std::optional<RegexMatch> match = regex.find(text, from, scratch);
    if (!match) return;
    if (match->begin == match->end && match->end == last_end) {
      from = after_character(text, from);
      continue;
    }
    sink(*match);
    from = last_end = match->end;
  }
}

}  // namespace

std::vector<RegexPart> find_parts(const Regex& regex, std::string_view text, bool invert,
                                  Regex::Scratch& scratch) {
  const auto size = static_cast<int64_t>(text.size());
  std::vector<RegexPart> parts;
  int64_t covered = 0;
  for_each_match(regex, text, scratch, [&](const RegexMatch& match) {
    if (covered != match.begin) parts.push_back({covered, match.begin, invert});
    parts.push_back({match.begin, match.end, !invert});
    covered = match.end;
  });
  if (covered != size) parts.push_back({covered, size, invert});
  return parts;
}

std::string replace_matches(const Regex& regex, std::string_view text, std::string_view content,
                            int64_t max_bytes, Regex::Scratch& scratch) {
  std::string out;
  if (text.empty()) return out;
  size_t covered = 0;
  const auto add = [&](std::string_view part) {
    require(static_cast<int64_t>(out.size() + part.size()) <= max_bytes,
            "a text of {} bytes grows beyond {} when it is normalized", text.size(), max_bytes);
    out += part;
  };
  for_each_match(regex, text, scratch, [&](const RegexMatch& match) {
    const auto begin = static_cast<size_t>(match.begin);
    add(text.substr(covered, begin - covered));
    add(content);
    covered = static_cast<size_t>(match.end);
  });
  add(text.substr(covered));
  return out;
}

}  // namespace shadowkv
