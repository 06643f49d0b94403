#include "server/tool_call_reader.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace shadowkv {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"name", "arguments", "parameters", "type", "id"};

// Of numbers and words.
bool is_scalar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'E';
}

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

std::optional<std::string> text_of(std::string_view quoted) {
  const auto value = nlohmann::json::parse(quoted, nullptr, false);
  return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
}

bool is_object(std::string_view text) {
  const auto first = std::find_if_not(text.begin(), text.end(), is_space);
  return first != text.end() && *first == '{' && nlohmann::json::accept(text);
}

}  // namespace

ToolCallReader::State ToolCallReader::add(char c) {
  text_ += c;
  if (in_string_) {
    if (is_escaped_ || c == '\\') {
      is_escaped_ = !is_escaped_;
    } else if (c == '"') {
      in_string_ = false;
      if (has_frame_ && depth_ == 1) return end_text();
    }
    return State::open;
  }
  if (depth_ > (has_frame_ ? 1 : 0)) return add_inside(c);
  if (depth_ == 1) return is_space(c) && part_ != Part::scalar ? State::open : add_member(c);
  if (c != '{') return State::broken;
  depth_ = 1;
  if (!has_frame_) arguments_ = 0;
  return State::open;
}

// Within a value of the outer object, or within the arguments where there is none.
ToolCallReader::State ToolCallReader::add_inside(char c) {
  in_string_ = c == '"';
  if (c == '{' || c == '[') ++depth_;
  if (c != '}' && c != ']') return State::open;
  --depth_;
  if (has_frame_) {
    if (depth_ == 1) end_value(text_.size());
    return State::open;
  }
  if (depth_ > 0) return State::open;
  behind_ = text_.size();
  arguments_end_ = behind_;
  is_whole_ = true;
  return State::whole;
}

ToolCallReader::State ToolCallReader::add_member(char c) {
  if (part_ == Part::scalar) {
    if (is_space(c) || c == ',' || c == '}') end_value(text_.size() - 1);
    if (part_ == Part::scalar) return is_scalar(c) ? State::open : State::broken;
    if (is_space(c)) return State::open;
  }
  switch (part_) {
    case Part::behind_key:
      part_ = Part::before_value;
      return c == ':' ? State::open : State::broken;
    case Part::before_value:
      return begin_value(c);
    case Part::behind_value:
      if (c == ',') part_ = Part::before_key;
      if (c == ',') return State::open;
      break;
    default:  // before a name
      in_string_ = c == '"';
      begin_ = text_.size() - 1;
      if (in_string_) return State::open;
  }
  if (c != '}') return State::broken;
  depth_ = 0;
  behind_ = text_.size();
  is_whole_ = true;
  return State::whole;
}

ToolCallReader::State ToolCallReader::begin_value(char c) {
  if (c != '"' && c != '{' && c != '[' && !is_scalar(c)) return State::broken;
  begin_ = text_.size() - 1;
  const bool is_first = !arguments_ && (key_ == "arguments" || key_ == "parameters");
  if (is_first) arguments_ = begin_;
  in_string_ = c == '"';
  if (c == '{' || c == '[') ++depth_;
  if (!in_string_ && depth_ == 1) part_ = Part::scalar;
  return State::open;
}

// Of the outer object's names and values.
ToolCallReader::State ToolCallReader::end_text() {
  if (part_ != Part::before_key) {
    end_value(text_.size());
    return key_ == "name" && !name_ ? State::broken : State::open;
  }
  const auto key = text_of(std::string_view(text_).substr(begin_));
  const bool is_known = key && std::find(kNames.begin(), kNames.end(), *key) != kNames.end();
  if (!key || (is_bare_ && !is_known)) return State::broken;
  key_ = *key;
  part_ = Part::behind_key;
  return State::open;
}

// Of equal names the first counts.
void ToolCallReader::end_value(std::size_t end) {
  part_ = Part::behind_value;
  behind_ = end;
  if (key_ == "name" && !name_) name_ = text_of(std::string_view(text_).substr(begin_, end - begin_));
  if (arguments_ == begin_) arguments_end_ = end;
}

std::string_view ToolCallReader::arguments() const {
  if (!arguments_ || text_[*arguments_] != '{') return {};
  return std::string_view(text_).substr(*arguments_, arguments_end_.value_or(text_.size()) - *arguments_);
}

std::string_view ToolCallReader::rest() const {
  return arguments_ && !arguments_end_ ? std::string_view() : std::string_view(text_).substr(behind_);
}

std::optional<std::string> ToolCallReader::whole_arguments() const {
  if (!name_ || name_->empty()) return std::nullopt;
  if (!arguments_) return is_whole_ ? std::optional<std::string>("{}") : std::nullopt;
  if (!arguments_end_) return std::nullopt;
  std::string text = text_.substr(*arguments_, *arguments_end_ - *arguments_);
  if (text == "null") return "{}";
  if (text[0] == '"') text = text_of(text).value_or("");
  return is_object(text) ? std::optional(text) : std::nullopt;
}

}  // namespace shadowkv
