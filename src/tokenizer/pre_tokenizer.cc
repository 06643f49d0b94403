#include "tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <string>

#include "tokenizer/regex_parts.h"

namespace shadowkv {
namespace {

using Part = RegexPart;

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
    if (step.kind != PreTokenizerStep::Kind::prefix) added.regex.emplace(step.pattern);
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

void PreTokenizer::split(Piece text, Scratch& scratch, const Sink& sink) const {
  if (!text.bytes.empty()) run(0, text, scratch, sink);
}

void PreTokenizer::run(size_t step, Piece piece, Scratch& scratch, const Sink& sink) const {
  if (step == steps_.size()) return sink(piece.bytes);
  const Step& current = steps_[step];
  switch (current.spec.kind) {
    case PreTokenizerStep::Kind::split:
      return run_split(step, piece, scratch, sink);
    case PreTokenizerStep::Kind::replace: {
      const std::string replaced = replace_matches(*current.regex, piece.bytes, current.spec.content,
                                                   kMaxTextBytes, *scratch.steps[step]);
      if (!replaced.empty()) run(step + 1, {replaced, piece.is_first}, scratch, sink);
      return;
    }
    case PreTokenizerStep::Kind::prefix:
      if (piece.bytes.starts_with(current.spec.content) || (current.spec.first_only && !piece.is_first))
        return run(step + 1, piece, scratch, sink);
      return run(step + 1, {std::string(current.spec.content).append(piece.bytes), piece.is_first}, scratch,
                 sink);
  }
}

void PreTokenizer::run_split(size_t step, Piece piece, Scratch& scratch, const Sink& sink) const {
  const Step& current = steps_[step];
  std::vector<Part> parts =
      find_parts(*current.regex, piece.bytes, current.spec.invert, *scratch.steps[step]);
  for (const Part& part : apply_behavior(std::move(parts), current.spec.behavior)) {
    if (part.begin == part.end) continue;
    const auto begin = static_cast<size_t>(part.begin);
    const std::string_view bytes = piece.bytes.substr(begin, static_cast<size_t>(part.end) - begin);
    run(step + 1, {bytes, piece.is_first && begin == 0}, scratch, sink);
  }
}

}  // namespace shadowkv
