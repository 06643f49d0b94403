#include "template/value.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "formats/quote.h"

namespace shadowkv::jinja {
namespace {

constexpr auto kValueBytes = static_cast<int64_t>(sizeof(Value));
constexpr int64_t kHeaderBytes = 64;  // of an allocated value

int64_t depth_of(const Value& value) {
  if (value.is_sequence()) return value.sequence().depth;
  return value.is_dict() ? value.dict().depth : 0;
}

void check_depth(int64_t depth) {
  require(depth <= kMaxValueDepth, "it nests lists and dicts more than {} deep", kMaxValueDepth);
}

bool is_key(const Value& value) {
  if (value.is_sequence()) {
    const Sequence& sequence = value.sequence();
    return sequence.kind == SequenceKind::tuple &&
           std::all_of(sequence.items.begin(), sequence.items.end(), is_key);
  }
  return !value.is_dict() && !value.is_space() && !value.is_loop() && !value.is_function();
}

// Lists equal lists, tuples tuples, and views and ranges each their own kind.
bool equal_sequences(const Sequence& a, const Sequence& b, Budget& budget) {
  if (a.kind != b.kind || a.items.size() != b.items.size() || a.kind == SequenceKind::iterator) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!equal(a.items[i], b.items[i], budget)) return false;
  }
  return true;
}

bool equal_dicts(const Dict& a, const Dict& b, Budget& budget) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = find(b, key, budget);
    if (other == nullptr || !equal(value, *other, budget)) return false;
  }
  return true;
}

bool less_sequences(const Sequence& a, const Sequence& b, Budget& budget) {
  const size_t both = std::min(a.items.size(), b.items.size());
  for (size_t i = 0; i < both; ++i) {
    if (!equal(a.items[i], b.items[i], budget)) return less(a.items[i], b.items[i], budget);
  }
  return a.items.size() < b.items.size();
}

// As Python compares the two exactly.
bool less_numbers(const Value& a, const Value& b) {
  if (a.is_whole() && b.is_whole()) return a.integer() < b.integer();
  return a.real() < b.real();
}

}  // namespace

Value Value::undefined(std::string_view name) {
  Value value;
  value.data_ = std::make_shared<const Undefined>(Undefined{std::string(name)});
  return value;
}

bool Value::same_as(const Value& other) const {
  if (data_.index() != other.data_.index() || is_undefined()) return false;
  if (is_integer()) return integer() == other.integer();
  return is_none() || data_ == other.data_;
}

std::string_view kind_of(const Value& value) {
  if (value.is_undefined()) return "an undefined value";
  if (value.is_none()) return "none";
  if (value.is_bool()) return "a truth value";
  if (value.is_number()) return "a number";
  if (value.is_text()) return "a text";
  if (value.is_dict()) return "a dict";
  if (value.is_space()) return "a namespace";
  if (value.is_loop()) return "a loop";
  if (value.is_function()) return "a function";
  return value.sequence().kind == SequenceKind::tuple ? "a tuple" : "a list";
}

void check_storable(const Value& value) {
  require(!value.is_space() && !value.is_function() && !value.is_loop(),
          "{} stands inside of another value, which is not supported", kind_of(value));
}

Value make_sequence(SequenceKind kind, std::vector<Value> items, Budget& budget) {
  budget.take(kHeaderBytes + static_cast<int64_t>(items.size()) * kValueBytes);
  int64_t depth = 0;
  for (const Value& item : items) {
    check_storable(item);
    depth = std::max(depth, depth_of(item));
  }
  check_depth(depth + 1);
  return Value(std::make_shared<const Sequence>(Sequence{kind, std::move(items), depth + 1}));
}

void put(Dict& dict, Value key, Value value, Budget& budget) {
  require(is_key(key), "{} is taken for a key of a dict", kind_of(key));
  check_storable(value);
  dict.depth = std::max({dict.depth, depth_of(value) + 1, depth_of(key) + 1});
  check_depth(dict.depth);
  if (const Value* found = find(dict, key, budget)) {
    *const_cast<Value*>(found) =
        std::move(value);  // NOLINT(cppcoreguidelines-pro-type-const-cast): of `dict`
    return;
  }
  budget.take(2 * kValueBytes);
  dict.entries.emplace_back(std::move(key), std::move(value));
}

const Value* find(const Dict& dict, const Value& key, Budget& budget) {
  if (key.is_text()) return find(dict, key.text().bytes, budget);
  for (const auto& [name, value] : dict.entries) {
    if (equal(name, key, budget)) return &value;
  }
  return nullptr;
}

const Value* find(const Dict& dict, std::string_view key, Budget& budget) {
  budget.step(static_cast<int64_t>(dict.entries.size()) / 16);
  for (const auto& [name, value] : dict.entries) {
    if (name.is_text() && name.text().bytes == key) return &value;
  }
  return nullptr;
}

bool truth(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_number()) return value.real() != 0;
  if (value.is_text()) return value.text().size() > 0;
  if (value.is_dict()) return !value.dict().entries.empty();
  if (value.is_sequence()) {
    return value.sequence().kind == SequenceKind::iterator || !value.sequence().items.empty();
  }
  return true;
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) {
    return a.is_whole() && b.is_whole() ? a.integer() == b.integer() : a.real() == b.real();
  }
  if (a.is_text() && b.is_text()) {
    budget.step(std::min(a.text().size(), b.text().size()) / 64);
    return a.text().bytes == b.text().bytes;
  }
  if (a.is_sequence() && b.is_sequence()) return equal_sequences(a.sequence(), b.sequence(), budget);
  if (a.is_dict() && b.is_dict()) return equal_dicts(a.dict(), b.dict(), budget);
  if (a.is_undefined() || a.is_none()) return kind_of(a) == kind_of(b);
  return a.same_as(b);
}

bool less(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  require_defined(a);
  require_defined(b);
  if (a.is_number() && b.is_number()) return less_numbers(a, b);
  if (a.is_text() && b.is_text()) {
    budget.step(std::min(a.text().size(), b.text().size()) / 64);
    return a.text().bytes < b.text().bytes;  // UTF-8 is ordered as its characters are
  }
  if (a.is_sequence() && b.is_sequence() && a.sequence().kind == b.sequence().kind &&
      a.sequence().kind <= SequenceKind::tuple) {
    return less_sequences(a.sequence(), b.sequence(), budget);
  }
  throw InvalidInput(fmt::format("{} and {} have no order", kind_of(a), kind_of(b)));
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  if (container.is_text()) {
    require(item.is_text(), "{} is looked for in a text", kind_of(item));
    budget.step(container.text().size() / 64);
    return container.text().bytes.find(item.text().bytes) != std::string::npos;
  }
  if (container.is_dict()) {
    require(is_key(item), "{} is looked for among the keys of a dict", kind_of(item));
    return find(container.dict(), item, budget) != nullptr;
  }
  if (container.is_undefined()) return false;
  require(container.is_sequence(), "something is looked for in {}", kind_of(container));
  const auto& items = container.sequence().items;
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& value) { return value.same_as(item) || equal(value, item, budget); });
}

std::vector<Value> items_of(const Value& value, Budget& budget) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (value.is_sequence()) {
    budget.take(static_cast<int64_t>(value.sequence().items.size()) * kValueBytes);
    return value.sequence().items;
  }
  if (value.is_dict()) {
    budget.take(static_cast<int64_t>(value.dict().entries.size()) * kValueBytes);
    for (const auto& entry : value.dict().entries) items.push_back(entry.first);
    return items;
  }
  require(value.is_text(), "{} has no items to go through", kind_of(value));
  for (const TextPart& character : characters(value.text(), budget)) {
    budget.take(kHeaderBytes + kValueBytes + static_cast<int64_t>(sizeof(Text)));
    items.emplace_back(copy(character, budget));
  }
  return items;
}

int64_t length_of(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_text()) return count_characters(value.text().bytes);
  if (value.is_dict()) return static_cast<int64_t>(value.dict().entries.size());
  require(value.is_sequence() && value.sequence().kind != SequenceKind::iterator, "{} has no length",
          value.is_sequence() ? "an iterator" : kind_of(value));
  return static_cast<int64_t>(value.sequence().items.size());
}

void require_defined(const Value& value) {
  require(!value.is_undefined(), "{} is undefined",
          value.is_undefined() ? in_quotes(value.undefined_name()) : std::string());
}

}  // namespace shadowkv::jinja
