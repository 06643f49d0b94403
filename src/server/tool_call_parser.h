// Calls of tools in an answer's text, as it comes. What is no well-formed call is text; of what may be part
// of a call nothing is shown. The pieces that the text comes in change nothing but when something is handed
// on.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/tool_call_reader.h"
#include "server/tool_format.h"

namespace shadowkv {

struct ToolParsing {
  ToolFormat format = ToolFormat::hermes;
  std::vector<std::string> names = {};  // of the tools
  bool is_opened = false;               // the answer begins behind the syntax's `open`
  // Arguments are handed on as they come, before it can be known that they are an object. Otherwise a call is
  // handed on when it is whole.
  bool by_pieces = false;
  int64_t most = std::numeric_limits<int64_t>::max();  // calls; what follows them is dropped
};

// What is new: text first, then calls in their order. The first piece of a call has its name.
struct ToolDelta {
  struct Call {
    int64_t index;
    std::string name;
    std::string arguments;
  };
  std::string text;
  std::vector<Call> calls;
};

class ToolCallParser {
 public:
  explicit ToolCallParser(ToolParsing parsing);

  [[nodiscard]] ToolDelta add(std::string_view text);
  // Nothing else comes.
  [[nodiscard]] ToolDelta finish();
  [[nodiscard]] int64_t calls() const { return calls_; }
  // Whether there are as many calls as there may be.
  [[nodiscard]] bool is_done() const { return at_ == At::end; }

 private:
  enum class At : uint8_t {
    start,   // a call without `open` may begin
    text,    // until `open`
    opened,  // before a call
    call,
    behind,  // a call
    end
  };

  // Does what can be done with held_; false where more is needed.
  bool step();
  bool step_start();
  bool step_start_of_glm();
  bool step_text();
  bool step_opened();
  bool step_call();
  bool step_behind();
  bool skip_space(std::string& to);
  bool wait_or_text(std::string_view expected);

  void begin_call(ToolCallReader reader, bool is_bare);
  void end_call();
  void refuse_call(std::size_t back);
  void hand_on_pieces();
  void hand_on(std::string_view name, std::string_view arguments);
  void show(std::string_view text);
  [[nodiscard]] bool is_known(std::string_view name) const;
  [[nodiscard]] bool is_expected() const;
  bool is_strange_name();

  ToolParsing parsing_;
  ToolSyntax syntax_;
  At at_;
  std::string held_;   // has not been looked at
  std::string raw_;    // of a call, before its reader's text
  std::string space_;  // between what was shown and what comes: dropped before a call
  std::optional<ToolCallReader> reader_;
  bool is_bare_ = false;   // the call has no `open`
  bool is_list_ = false;   // calls stand in [ ]
  bool has_name_ = false;  // the call's name is known
  bool is_begun_ = false;  // and was handed on
  std::size_t sent_ = 0;   // and so many bytes of its arguments
  int64_t calls_ = 0;
  ToolDelta out_;
};

}  // namespace shadowkv
