#include "tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <string>

#include "tokenizer/utf8.h"

namespace shadowkv {
namespace {

struct Part {
  int64_t begin, end;  // bytes
  bool is_match;
};

int64_t after_character(std::string_view text, int64_t at) {
  if (at >= static_cast<int64_t>(text.size())) return at + 1;
  return at + read_utf8(text.substr(static_cast<size_t>(at))).length;
}

// The text as matches and what lies between them. An empty match right behind the last one does not count.
std::vector<Part> find_parts(const Regex& regex, std::string_view text, bool invert,
                             Regex::Scratch& scratch) {
  const auto size = static_cast<int64_t>(text.size());
  std::vector<Part> parts;
  int64_t covered = 0;
  int64_t from = 0;
  int64_t last_end = -1;
  while (from <= size) {
    const std::optional<RegexMatch> match = regex.find(text, from, scratch);
    if (!match) break;
    if (match->begin == match->end && match->end == last_end) {
      from = after_character(text, from);
      continue;
    }
    if (covered != match->begin) parts.push_back({covered, match->begin, invert});
    parts.push_back({match->begin, match->end, !invert});
    covered = from = last_end = match->end;
  }
  if (covered != size) parts.push_back({covered, size, invert});
  return parts;
}

std::vector<Part> join_contiguous(const std::vector<Part>& parts) {
  std::vector<Part> out;
  bool previous = false;
  for (const Part& part : parts) {
    if (part.is_match == previous && !out.empty()) {
      out.back().end = part.end;
    } else {
      out.push_back(part);
    }
    previous = part.is_match;
  }
  return out;
}

std::vector<Part> join_to_previous(const std::vector<Part>& parts) {
  std::vector<Part> out;
  bool previous = false;
  for (const Part& part : parts) {
    if (part.is_match && !previous && !out.empty()) {
      out.back().end = part.end;
    } else {
      out.push_back(part);
    }
    previous = part.is_match;
  }
  return out;
}

std::vector<Part> join_to_next(const std::vector<Part>& parts) {
  std::vector<Part> out;
  bool previous = false;
  for (std::size_t i = parts.size(); i-- > 0;) {
    const Part& part = parts[i];
    if (part.is_match && !previous && !out.empty()) {
      out.back().begin = part.begin;
    } else {
      out.push_back(part);
    }
    previous = part.is_match;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<Part> apply_behavior(std::vector<Part> parts, SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::isolated:
      return parts;
    case SplitBehavior::removed:
      std::erase_if(parts, [](const Part& part) { return part.is_match; });
      return parts;
    case SplitBehavior::contiguous:
      return join_contiguous(parts);
    case SplitBehavior::merged_with_previous:
      return join_to_previous(parts);
    case SplitBehavior::merged_with_next:
      return join_to_next(parts);
  }
  return parts;
}

}  // namespace

PreTokenizer::PreTokenizer(std::span<const PreTokenizerStep> steps) {
  steps_.reserve(steps.size());
  for (const PreTokenizerStep& step : steps) {
    Step& added = steps_.emplace_back(Step{step, std::nullopt});
    if (step.kind == PreTokenizerStep::Kind::split) added.regex.emplace(step.pattern);
  }
}

PreTokenizer::Scratch PreTokenizer::make_scratch() const {
  Scratch scratch;
  scratch.steps.resize(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].regex) scratch.steps[i].emplace(*steps_[i].regex);
  }
  return scratch;
}

void PreTokenizer::split(std::string_view text, Scratch& scratch, const Sink& sink) const {
  if (!text.empty()) run(0, text, scratch, sink);
}

void PreTokenizer::run(size_t step, std::string_view piece, Scratch& scratch, const Sink& sink) const {
  if (step == steps_.size()) return sink(piece);
  const Step& current = steps_[step];
  if (!current.regex) {
    if (piece.starts_with(' ')) return run(step + 1, piece, scratch, sink);
    return run(step + 1, std::string(1, ' ').append(piece), scratch, sink);
  }
  std::vector<Part> parts = find_parts(*current.regex, piece, current.spec.invert, *scratch.steps[step]);
  for (const Part& part : apply_behavior(std::move(parts), current.spec.behavior)) {
    if (part.begin == part.end) continue;
    run(step + 1, piece.substr(static_cast<size_t>(part.begin), static_cast<size_t>(part.end - part.begin)),
        scratch, sink);
  }
}

}  // namespace shadowkv
