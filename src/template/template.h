// Chat templates: the part of Jinja that they are written in, set up as the transformers library sets it up.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "template/budget.h"
#include "template/value.h"

namespace shadowkv::jinja {

struct Syntax;

// What a template sees by name. Texts keep their marks.
using Variables = std::vector<std::pair<std::string, Value>>;

class Template {
 public:
  // `name` stands for the template in messages. Throws InvalidInput "name: line 3: ..." for what is not
  // UTF-8, longer than kMaxSourceBytes, not Jinja, or not supported.
  Template(std::string_view source, std::string_view name);
  ~Template();
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  // Throws InvalidInput "name: line 3: ..." where the template fails, refuses what it is given
  // (raise_exception) or passes a limit.
  [[nodiscard]] Text render(const Variables& variables, Budget& budget) const;

 private:
  std::string name_;
  std::unique_ptr<const Syntax> syntax_;
};

// A JSON text as a value, objects in their order. All of its texts are marked as given. Throws InvalidInput
// "name: line 3, column 7: ..." for what is not JSON or is nested too deep.
[[nodiscard]] Value value_of_json(std::string_view text, std::string_view name, Budget& budget);

}  // namespace shadowkv::jinja
