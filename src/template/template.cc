#include "template/template.h"

#include "base/check.h"
#include "base/utf8.h"
#include "template/interpreter.h"
#include "template/parser.h"

namespace shadowkv::jinja {
namespace {

Syntax checked_syntax(std::string_view source) {
  require(static_cast<int64_t>(source.size()) <= kMaxSourceBytes, "it has {} bytes, at most {} are supported",
          source.size(), kMaxSourceBytes);
  const std::optional<int64_t> invalid = find_invalid_utf8(source);
  require(!invalid, "it is not valid UTF-8: the byte at offset {} is not part of a character",
          invalid.value_or(0));
  return parse(source);
}

// Adds the template's name to what goes wrong in it.
template <typename Work>
auto named(std::string_view name, Work work) {
  try {
    return work();
  } catch (const InvalidInput& error) {
    throw InvalidInput(fmt::format("{}: {}", name, error.what()));
  }
}

}  // namespace

Template::Template(std::string_view source, std::string_view name)
    : name_(name),
      syntax_(named(name, [&] { return std::make_unique<const Syntax>(checked_syntax(source)); })) {}

Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

Text Template::render(const Variables& variables, Budget& budget) const {
  return named(name_, [&] {
    Scope globals;
    for (const auto& [name, value] : variables) globals.set(name, value, budget);
    return Interpreter(globals, budget).run(*syntax_);
  });
}

}  // namespace shadowkv::jinja
