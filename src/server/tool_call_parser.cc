#include "server/tool_call_parser.h"

#include <algorithm>
#include <utility>

namespace shadowkv {
namespace {

constexpr std::string_view kSpace = " \n\t\r";

// Bytes of the longest end of a text that `marker` begins with, but is not.
std::size_t bytes_of_beginning(std::string_view text, std::string_view marker) {
  std::size_t length = std::min(text.size(), marker.empty() ? 0 : marker.size() - 1);
  while (length > 0 && !text.ends_with(marker.substr(0, length))) --length;
  return length;
}

}  // namespace

ToolCallParser::ToolCallParser(ToolParsing parsing)
    : parsing_(std::move(parsing)), syntax_(syntax_of(parsing_.format)) {
  const bool begins_bare = parsing_.format == ToolFormat::llama || parsing_.format == ToolFormat::glm;
  at_ = begins_bare ? At::start : parsing_.is_opened ? At::opened : At::text;
}

ToolDelta ToolCallParser::add(std::string_view text) {
  if (is_done()) return {};
  held_ += text;
  while (step()) {
  }
  hand_on_pieces();
  return std::exchange(out_, {});
}

ToolDelta ToolCallParser::finish() {
  hand_on_pieces();
  if (at_ == At::call) {
    if (is_begun_ || is_expected()) {
      end_call();
    } else {
      refuse_call(0);
    }
    while (step()) {
    }
  }
  const bool is_part_of_close = at_ == At::behind && syntax_.close.starts_with(held_);
  if (!is_done() && !is_part_of_close) show((at_ == At::opened ? raw_ : "") + held_);
  if (calls_ == 0) out_.text += space_;
  at_ = At::end;
  return std::exchange(out_, {});
}

bool ToolCallParser::step() {
  switch (at_) {
    case At::start:
      return parsing_.format == ToolFormat::glm ? step_start_of_glm() : step_start();
    case At::text:
      return step_text();
    case At::opened:
      return step_opened();
    case At::call:
      return step_call();
    case At::behind:
      return step_behind();
    case At::end:
      held_.clear();
  }
  return false;
}

// Moves white space out of held_; false where nothing else is there.
bool ToolCallParser::skip_space(std::string& to) {
  const std::size_t first = std::min(held_.find_first_not_of(kSpace), held_.size());
  to += held_.substr(0, first);
  held_.erase(0, first);
  return !held_.empty();
}

// ---- between calls ----------------------------------------------------------------------------------------

bool ToolCallParser::step_start() {
  if (!skip_space(space_)) return false;
  if (held_[0] != '{') {
    at_ = At::text;
    return true;
  }
  raw_.clear();
  begin_call(ToolCallReader(true), true);
  return true;
}

// A line with a tool's name, then an object.
bool ToolCallParser::step_start_of_glm() {
  if (!skip_space(space_)) return false;
  const std::size_t line = held_.find('\n');
  const std::string_view first = std::string_view(held_).substr(0, line);
  const std::string_view name = first.substr(0, first.find_last_not_of(kSpace) + 1);
  if (line == std::string::npos) {
    const bool may_be = std::any_of(parsing_.names.begin(), parsing_.names.end(),
                                    [&](const std::string& known) { return known.starts_with(name); });
    if (!may_be) at_ = At::text;
    return !may_be;
  }
  const std::size_t next = held_.find_first_not_of(kSpace, line);
  if (is_known(name) && next == std::string::npos) return false;
  if (!is_known(name) || held_[next] != '{') {
    at_ = At::text;
    return true;
  }
  ToolCallReader reader{std::string(name)};
  raw_ = held_.substr(0, next);
  held_.erase(0, next);
  begin_call(std::move(reader), true);
  return true;
}

bool ToolCallParser::step_text() {
  const std::size_t open = syntax_.open.empty() ? std::string::npos : held_.find(syntax_.open);
  const bool is_found = open != std::string::npos;
  const std::size_t end = is_found ? open : held_.size() - bytes_of_beginning(held_, syntax_.open);
  show(std::string_view(held_).substr(0, end));
  held_.erase(0, is_found ? open + syntax_.open.size() : end);
  if (!is_found) return false;
  raw_ = syntax_.open;
  is_list_ = false;
  at_ = At::opened;
  return true;
}

bool ToolCallParser::step_opened() {
  if (!skip_space(raw_)) return false;
  if (held_[0] == '{') {
    begin_call(ToolCallReader(false), false);
  } else if (held_[0] == '[' && !is_list_) {
    is_list_ = true;
    raw_ += '[';
    held_.erase(0, 1);
  } else {
    show(std::exchange(raw_, {}));
    at_ = At::text;
  }
  return true;
}

// Waits while held_ may become what is expected; else goes on with text.
bool ToolCallParser::wait_or_text(std::string_view expected) {
  if (held_.size() < expected.size() && expected.starts_with(held_)) return false;
  if (held_.starts_with(expected)) held_.erase(0, expected.size());
  at_ = At::text;
  return true;
}

bool ToolCallParser::step_behind() {
  if (!skip_space(space_)) return false;
  const bool goes_on =
      (is_list_ && held_[0] == ',') || (syntax_.format == ToolFormat::llama && held_[0] == ';');
  if (goes_on) {
    raw_ = held_.substr(0, 1);
    held_.erase(0, 1);
    at_ = At::opened;
  } else if (is_list_ && held_[0] == ']') {
    held_.erase(0, 1);
    is_list_ = false;
  } else if (syntax_.format == ToolFormat::glm) {
    at_ = At::start;
  } else {
    return wait_or_text(syntax_.close);
  }
  return true;
}

// ---- calls ------------------------------------------------------------------------------------------------

void ToolCallParser::begin_call(ToolCallReader reader, bool is_bare) {
  reader_.emplace(std::move(reader));
  is_bare_ = is_bare;
  is_begun_ = has_name_ = false;
  sent_ = 0;
  at_ = At::call;
}

bool ToolCallParser::is_known(std::string_view name) const {
  return std::find(parsing_.names.begin(), parsing_.names.end(), name) != parsing_.names.end();
}

// Whether what has been read is a call, whatever follows.
bool ToolCallParser::is_expected() const {
  return (!is_bare_ || is_known(reader_->name().value_or(""))) && reader_->whole_arguments();
}

// Whether the name has just come, and is none of a tool where only those make a call.
bool ToolCallParser::is_strange_name() {
  if (!reader_->name() || std::exchange(has_name_, true)) return false;
  return is_bare_ && !is_known(*reader_->name());
}

bool ToolCallParser::step_call() {
  auto state = ToolCallReader::State::open;
  std::size_t read = 0;
  bool is_strange = false;
  while (state == ToolCallReader::State::open && !is_strange && read < held_.size()) {
    state = reader_->add(held_[read++]);
    is_strange = is_strange_name();
  }
  held_.erase(0, read);
  if (state == ToolCallReader::State::open && !is_strange) return false;
  hand_on_pieces();
  if (is_begun_ || is_expected()) {
    end_call();
  } else {
    refuse_call(state == ToolCallReader::State::broken ? 1 : 0);
  }
  return true;
}

void ToolCallParser::end_call() {
  if (!is_begun_) {
    hand_on(*reader_->name(), {});
    hand_on({}, *reader_->whole_arguments());
  }
  held_.insert(0, reader_->rest());
  reader_.reset();
  raw_.clear();
  space_.clear();
  ++calls_;
  at_ = calls_ >= parsing_.most ? At::end : At::behind;
  if (is_done()) held_.clear();
}

// It is text, of which the last bytes are looked at again.
void ToolCallParser::refuse_call(std::size_t back) {
  const std::string& text = reader_->text();
  show(raw_ + text.substr(0, text.size() - back));
  held_.insert(0, text.substr(text.size() - back));
  reader_.reset();
  raw_.clear();
  at_ = At::text;
}

void ToolCallParser::hand_on_pieces() {
  if (!parsing_.by_pieces || at_ != At::call || reader_->name().value_or("").empty()) return;
  if (is_bare_ && !is_known(*reader_->name())) return;
  const std::string_view arguments = reader_->arguments();
  if (arguments.empty()) return;
  if (!std::exchange(is_begun_, true)) hand_on(*reader_->name(), {});
  if (arguments.size() > sent_) hand_on({}, arguments.substr(sent_));
  sent_ = arguments.size();
}

void ToolCallParser::hand_on(std::string_view name, std::string_view arguments) {
  out_.calls.push_back({.index = calls_, .name = std::string(name), .arguments = std::string(arguments)});
}

void ToolCallParser::show(std::string_view text) {
  const std::size_t end = text.find_last_not_of(kSpace) + 1;
  if (end > 0) out_.text += std::exchange(space_, {}) + std::string(text.substr(0, end));
  space_ += text.substr(end);
}

}  // namespace shadowkv
