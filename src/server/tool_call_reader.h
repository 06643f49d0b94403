// One call of a tool as models write it, {"name": "f", "arguments": {...}} with members in any order, read
// byte by byte. The outer object is checked as it comes, the arguments when they are whole.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace shadowkv {

class ToolCallReader {
 public:
  enum class State : uint8_t {
    open,   // more must come
    whole,  // the last byte closed it
    broken  // the last byte cannot be part of a call
  };

  // is_bare: nothing but its names tells the object from an answer that is JSON, so that it has only those
  // that calls have.
  explicit ToolCallReader(bool is_bare) : is_bare_(is_bare) {}
  // All that is to come are the arguments.
  explicit ToolCallReader(std::string name) : is_bare_(false), name_(std::move(name)), has_frame_(false) {}

  // Not after the state is another than open.
  State add(char c);

  [[nodiscard]] const std::string& text() const { return text_; }                 // all that came
  [[nodiscard]] const std::optional<std::string>& name() const { return name_; }  // once it is known
  // The arguments so far; empty where none have begun, or where they are no object.
  [[nodiscard]] std::string_view arguments() const;
  // The arguments where all is there that makes up a call, whatever is missing behind them; else nothing.
  // Where there are none, or they are a text that holds an object, they become one.
  [[nodiscard]] std::optional<std::string> whole_arguments() const;
  // What came behind the last member that was whole; nothing while arguments come.
  [[nodiscard]] std::string_view rest() const;

 private:
  enum class Part : uint8_t { before_key, behind_key, before_value, scalar, behind_value };

  State add_inside(char c);
  State add_member(char c);
  State begin_value(char c);
  State end_text();
  void end_value(std::size_t end);

  bool is_bare_;
  std::optional<std::string> name_;
  bool has_frame_ = true;  // the arguments are a member of an object
  std::string text_;
  int depth_ = 0;
  bool in_string_ = false, is_escaped_ = false, is_whole_ = false;
  Part part_ = Part::before_key;
  std::string key_;                     // whose value comes or has come
  std::size_t begin_ = 0, behind_ = 0;  // of the member's name or value; of the last whole one
  std::optional<std::size_t> arguments_, arguments_end_;  // where in the text
};

}  // namespace shadowkv
