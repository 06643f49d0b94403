// Methods of texts that give texts, lists and positions.
#include <algorithm>

#include "base/check.h"
#include "template/builtins.h"
#include "template/operators.h"
#include "template/writing.h"

namespace shadowkv::jinja {
namespace {

Value strip_method(const Input& in, Ends ends) {
  std::optional<std::string_view> chars;
  if (!in.is_absent(0)) chars = in.exact_text_at(0).bytes;
  return copy(strip(whole(in.self.text()), ends, chars), in.budget);
}

Value parts_as(SequenceKind kind, const std::vector<TextPart>& parts, const Input& in) {
  std::vector<Value> items;
  for (const TextPart& part : parts) {
    in.budget.take(static_cast<int64_t>(sizeof(Text)) + 32);
    items.emplace_back(copy(part, in.budget));
  }
  return make_sequence(kind, std::move(items), in.budget);
}

Value split_method(const Input& in, bool from_right) {
  std::optional<std::string_view> separator;
  if (!in.is_absent(0)) separator = in.exact_text_at(0).bytes;
  const auto parts =
      (from_right ? split_right : split)(in.self.text(), separator, in.integer_at(1, -1), in.budget);
  return parts_as(SequenceKind::list, parts, in);
}

Value split_lines_method(const Input& in) {
  return parts_as(SequenceKind::list, split_lines(in.self.text(), in.truth_at(0, false), in.budget), in);
}

// Before, the separator, after.
Value partition(const Input& in, bool from_right) {
  const Text& text = in.self.text();
  const std::string& separator = in.exact_text_at(0).bytes;
  require(!separator.empty(), "a text is split by an empty separator");
  in.budget.step(text.size() / 64);
  const size_t found = from_right ? text.bytes.rfind(separator) : text.bytes.find(separator);
  const int64_t size = text.size();
  const auto begin = found == std::string::npos ? (from_right ? 0 : size) : static_cast<int64_t>(found);
  const int64_t end = found == std::string::npos ? begin : begin + static_cast<int64_t>(separator.size());
  return parts_as(SequenceKind::tuple, {{&text, 0, begin}, {&text, begin, end}, {&text, end, size}}, in);
}

bool matches_end(const Text& text, const Value& wanted, bool at_start) {
  require(wanted.is_text(), "{} is looked for at an end of a text", kind_of(wanted));
  return at_start ? text.bytes.starts_with(wanted.text().bytes) : text.bytes.ends_with(wanted.text().bytes);
}

Value ends_method(const Input& in, bool at_start) {
  const Value& wanted = in.at(0);
  const bool is_tuple = wanted.is_sequence() && wanted.sequence().kind == SequenceKind::tuple;
  if (!is_tuple) return matches_end(in.self.text(), wanted, at_start);
  const auto& all = wanted.sequence().items;
  return std::any_of(all.begin(), all.end(),
                     [&](const Value& value) { return matches_end(in.self.text(), value, at_start); });
}

Value find_method_of_text(const Input& in, bool from_right) {
  const std::string& text = in.self.text().bytes;
  in.budget.step(in.self.text().size() / 64);
  const size_t found =
      from_right ? text.rfind(in.exact_text_at(0).bytes) : text.find(in.exact_text_at(0).bytes);
  if (found == std::string::npos) return int64_t{-1};
  return count_characters(std::string_view(text).substr(0, found));
}

Value index_method(const Input& in, bool from_right) {
  Value found = find_method_of_text(in, from_right);
  require(found.integer() >= 0, "a text that is looked for is not there");
  return found;
}

Value count_method(const Input& in) {
  const std::string &text = in.self.text().bytes, &wanted = in.exact_text_at(0).bytes;
  in.budget.step(in.self.text().size() / 32);
  if (wanted.empty()) return count_characters(text) + 1;
  int64_t count = 0;
  for (size_t at = text.find(wanted); at != std::string::npos; at = text.find(wanted, at + wanted.size()))
    ++count;
  return count;
}

Value replace_method(const Input& in) {
  return replace(in.self.text(), in.exact_text_at(0), in.exact_text_at(1), in.integer_at(2, -1), in.budget);
}

Value join_method(const Input& in) {
  TextBuilder out(in.budget);
  bool first = true;
  for (const Value& value : items_of(in.at(0), in.budget)) {
    require(value.is_text(), "{} is joined as a text", kind_of(value));
    if (!first) out.add(in.self.text());
    first = false;
    out.add(value.text());
  }
  return out.finish();
}

Value without(const Input& in, bool at_start) {
  const Text& text = in.self.text();
  const Text& end = in.exact_text_at(0);
  if (!matches_end(text, in.at(0), at_start)) return text;
  return copy(
      at_start ? TextPart{&text, end.size(), text.size()} : TextPart{&text, 0, text.size() - end.size()},
      in.budget);
}

Value justify(const Input& in, bool left) {
  const Text& text = in.self.text();
  const Text fill = in.text_at(1, " ");
  require(count_characters(fill.bytes) == 1, "a text is filled up with something else than one character");
  const int64_t missing = in.integer_at(0, 0) - count_characters(text.bytes);
  TextBuilder out(in.budget);
  if (!left) out.repeat(fill, missing);
  out.add(text);
  if (left) out.repeat(fill, missing);
  return out.finish();
}

Value zero_fill(const Input& in) {
  const Text& text = in.self.text();
  const bool has_sign = text.bytes.starts_with('-') || text.bytes.starts_with('+');
  const int64_t sign = has_sign ? 1 : 0;
  return TextBuilder(in.budget)
      .add(TextPart{&text, 0, sign})
      .repeat(Text{"0", {}}, in.integer_at(0, 0) - count_characters(text.bytes))
      .add(TextPart{&text, sign, text.size()})
      .finish();
}

template <Case to>
Value case_method(const Input& in) {
  return change_case(in.self.text(), to, in.budget);
}

Value not_supported(const Input& /*input*/) {
  throw InvalidInput("the method \"format\" is not supported; use \"%\" or \"~\"");
}

constexpr Builtin kMethods[] = {
    {"strip", {"chars"}, 0, [](const Input& in) { return strip_method(in, Ends::both); }},
    {"lstrip", {"chars"}, 0, [](const Input& in) { return strip_method(in, Ends::left); }},
    {"rstrip", {"chars"}, 0, [](const Input& in) { return strip_method(in, Ends::right); }},
    {"split", {"sep", "maxsplit"}, 0, [](const Input& in) { return split_method(in, false); }},
    {"rsplit", {"sep", "maxsplit"}, 0, [](const Input& in) { return split_method(in, true); }},
    {"splitlines", {"keepends"}, 0, split_lines_method},
    {"partition", {"sep"}, 1, [](const Input& in) { return partition(in, false); }},
    {"rpartition", {"sep"}, 1, [](const Input& in) { return partition(in, true); }},
    {"startswith", {"prefix"}, 1, [](const Input& in) { return ends_method(in, true); }},
    {"endswith", {"suffix"}, 1, [](const Input& in) { return ends_method(in, false); }},
    {"find", {"sub"}, 1, [](const Input& in) { return find_method_of_text(in, false); }},
    {"rfind", {"sub"}, 1, [](const Input& in) { return find_method_of_text(in, true); }},
    {"index", {"sub"}, 1, [](const Input& in) { return index_method(in, false); }},
    {"rindex", {"sub"}, 1, [](const Input& in) { return index_method(in, true); }},
    {"count", {"sub"}, 1, count_method},
    {"replace", {"old", "new", "count"}, 2, replace_method},
    {"join", {"iterable"}, 1, join_method},
    {"removeprefix", {"prefix"}, 1, [](const Input& in) { return without(in, true); }},
    {"removesuffix", {"suffix"}, 1, [](const Input& in) { return without(in, false); }},
    {"ljust", {"width", "fillchar"}, 1, [](const Input& in) { return justify(in, true); }},
    {"rjust", {"width", "fillchar"}, 1, [](const Input& in) { return justify(in, false); }},
    {"zfill", {"width"}, 1, zero_fill},
    {"upper", {}, 0, case_method<Case::upper>},
    {"lower", {}, 0, case_method<Case::lower>},
    {"capitalize", {}, 0, case_method<Case::capitalize>},
    {"title", {}, 0, case_method<Case::python_title>},
    {"swapcase", {}, 0, case_method<Case::swap>},
    {"format", kAnyArguments, 0, not_supported},
};

}  // namespace

std::span<const Builtin> text_methods() {
  return kMethods;
}

}  // namespace shadowkv::jinja
