// Parts of values: attributes, items, slices.
#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/utf8.h"
#include "template/builtins.h"
#include "template/literal.h"
#include "template/operators.h"

namespace shadowkv::jinja {
namespace {

Value method(const Value& value, std::string_view name, Budget& budget) {
  budget.take(static_cast<int64_t>(sizeof(Function) + sizeof(Value)));
  return Value(Function{
      .kind = FunctionKind::method, .name = std::string(name), .self = std::make_shared<const Value>(value)});
}

// What Python's getattr finds, never an item; of Python's own attributes none but the methods in the tables.
Value own_attribute(const Value& value, std::string_view name, Budget& budget) {
  if (value.is_space()) {
    for (const auto& [own, held] : value.space().entries) {
      if (own == name) return held;
    }
    return Value::undefined(name);
  }
  if (value.is_loop()) {
    Value found = loop_attribute(value.loop(), name);
    if (!found.is_undefined()) return found;
  }
  if (find_method(value, name) != nullptr) return method(value, name, budget);
  return Value::undefined(name);
}

// The index that Python means; nullopt outside.
std::optional<size_t> index_in(int64_t index, int64_t size) {
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  return static_cast<size_t>(index);
}

Value character(const Text& text, int64_t index, Budget& budget) {
  budget.step(text.size() / 32);
  const auto found = index_in(index, count_characters(text.bytes));
  if (!found) return Value::undefined("a character of a text");
  const int64_t begin = byte_offset(text.bytes, static_cast<int64_t>(*found));
  const int64_t length = read_utf8(std::string_view(text.bytes).substr(static_cast<size_t>(begin))).length;
  return copy(TextPart{&text, begin, begin + length}, budget);
}

bool has_indices(const Value& value) {
  return value.is_sequence() && value.sequence().kind <= SequenceKind::range;
}

std::optional<Value> indexed(const Value& value, const Value& key, Budget& budget) {
  if (value.is_dict()) {
    const Value* found = key.is_sequence() || key.is_dict() ? nullptr : find(value.dict(), key, budget);
    return found == nullptr ? std::nullopt : std::optional<Value>(*found);
  }
  if (!key.is_whole()) return std::nullopt;
  if (value.is_text()) return character(value.text(), key.integer(), budget);
  if (!has_indices(value)) return std::nullopt;
  const auto found = index_in(key.integer(), length_of(value));
  return found ? value.sequence().items[*found] : Value::undefined("an item of a list");
}

// Positions that Python's slice takes.
struct Steps {
  int64_t begin, step, count;
};

Steps steps_of(const Slice& bounds, int64_t size) {
  const int64_t step = bounds.step.is_none() ? 1 : bounds.step.integer();
  require(step != 0, "a slice has a step of zero");
  const int64_t least = step < 0 ? -1 : 0, most = step < 0 ? size - 1 : size;
  const auto bound = [&](const Value& value, int64_t fallback) {
    if (value.is_none()) return fallback;
    int64_t at = value.integer();
    if (at < 0) at += size;
    return std::clamp(at, least, most);
  };
  const int64_t begin = bound(bounds.begin, step < 0 ? most : least);
  const int64_t end = bound(bounds.end, step < 0 ? least : most);
  if (step > 0) return {begin, step, end > begin ? (end - begin - 1) / step + 1 : 0};
  const int64_t stride = step == INT64_MIN ? INT64_MAX : -step;
  return {begin, step, begin > end ? (begin - end - 1) / stride + 1 : 0};
}

Value slice_text(const Text& text, const Slice& bounds, Budget& budget) {
  budget.step(text.size() / 32);
  const Steps steps = steps_of(bounds, count_characters(text.bytes));
  if (steps.step == 1) {
    const int64_t begin = byte_offset(text.bytes, steps.begin);
    const std::string_view rest = std::string_view(text.bytes).substr(static_cast<size_t>(begin));
    return copy(TextPart{&text, begin, begin + byte_offset(rest, steps.count)}, budget);
  }
  const std::vector<TextPart> all = characters(text, budget);
  TextBuilder out(budget);
  for (int64_t i = 0; i < steps.count; ++i) out.add(all[static_cast<size_t>(steps.begin + i * steps.step)]);
  return out.finish();
}

Value slice_sequence(const Sequence& sequence, const Slice& bounds, Budget& budget) {
  const Steps steps = steps_of(bounds, static_cast<int64_t>(sequence.items.size()));
  budget.take(steps.count * static_cast<int64_t>(sizeof(Value)));
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(steps.count));
  for (int64_t i = 0; i < steps.count; ++i)
    items.push_back(sequence.items[static_cast<size_t>(steps.begin + i * steps.step)]);
  return make_sequence(sequence.kind, std::move(items), budget);
}

}  // namespace

Value attribute(const Value& value, std::string_view name, Budget& budget) {
  require_defined(value);
  if (value.is_dict() && find_method(value, name) == nullptr) {
    if (const Value* found = find(value.dict(), name, budget)) return *found;
  }
  return own_attribute(value, name, budget);
}

Value item(const Value& value, const Value& key, Budget& budget) {
  require_defined(value);
  if (std::optional<Value> found = indexed(value, key, budget)) return *std::move(found);
  if (key.is_text()) return own_attribute(value, key.text().bytes, budget);
  return Value::undefined("an item");
}

Value path(const Value& value, const Value& path, Budget& budget, const Value* fallback) {
  const auto step = [&](const Value& from, const Value& key) {
    Value part = item(from, key, budget);
    return part.is_undefined() && fallback != nullptr && !fallback->is_none() ? *fallback : part;
  };
  if (!path.is_text()) return step(value, path);
  Value at = value;
  for (const TextPart& part : split(path.text(), ".", -1, budget)) {
    const std::string_view name = part.bytes();
    const bool is_index = !name.empty() && name.find_first_not_of("0123456789") == std::string_view::npos;
    const std::optional<int64_t> index = is_index ? integer_value(name) : std::nullopt;
    at = step(at, index ? Value(*index) : Value::text(name));
  }
  return at;
}

Value slice(const Value& value, const Slice& bounds, Budget& budget) {
  require_defined(value);
  const bool has_steps = std::ranges::all_of(std::array{&bounds.begin, &bounds.end, &bounds.step},
                                             [](const Value* v) { return v->is_none() || v->is_whole(); });
  if (!has_steps) return Value::undefined("a slice");
  if (value.is_text()) return slice_text(value.text(), bounds, budget);
  if (has_indices(value)) return slice_sequence(value.sequence(), bounds, budget);
  return Value::undefined("a slice");
}

}  // namespace shadowkv::jinja
