// Filters on lists and dicts.
#include <algorithm>

#include "base/check.h"
#include "template/builtins.h"
#include "template/operators.h"
#include "template/writing.h"

namespace shadowkv::jinja {
namespace {

Value list_of(SequenceKind kind, std::vector<Value> items, const Input& in) {
  return make_sequence(kind, std::move(items), in.budget);
}

Value length(const Input& in) {
  return length_of(in.self);
}

Value first(const Input& in) {
  const std::vector<Value> items = items_of(in.self, in.budget);
  return items.empty() ? Value::undefined("the first item of an empty list") : items.front();
}

Value last(const Input& in) {
  require(!(in.self.is_sequence() && in.self.sequence().kind == SequenceKind::iterator),
          "an iterator has no last item");
  const std::vector<Value> items = items_of(in.self, in.budget);
  return items.empty() ? Value::undefined("the last item of an empty list") : items.back();
}

Value list(const Input& in) {
  return list_of(SequenceKind::list, items_of(in.self, in.budget), in);
}

Value reverse(const Input& in) {
  if (in.self.is_text()) return slice(in.self, {.step = int64_t{-1}}, in.budget);
  std::vector<Value> items = items_of(in.self, in.budget);
  std::reverse(items.begin(), items.end());
  return list_of(SequenceKind::iterator, std::move(items), in);
}

Value pairs(const Dict& dict, SequenceKind kind, const Input& in) {
  std::vector<Value> items;
  items.reserve(dict.entries.size());
  for (const auto& [key, value] : dict.entries)
    items.push_back(list_of(SequenceKind::tuple, {key, value}, in));
  return list_of(kind, std::move(items), in);
}

Value items(const Input& in) {
  if (in.self.is_undefined()) return list_of(SequenceKind::iterator, {}, in);
  require(in.self.is_dict(), "{} has no pairs of keys and values", kind_of(in.self));
  return pairs(in.self.dict(), SequenceKind::iterator, in);
}

// A value and what it is sorted by.
struct Keyed {
  Value key, value;
};

Value without_case(const Value& key, bool case_sensitive, Budget& budget) {
  return key.is_text() && !case_sensitive ? Value(change_case(key.text(), Case::lower, budget)) : key;
}

std::vector<Keyed> keyed(const Input& in, bool case_sensitive, const Value* attribute) {
  std::vector<Keyed> found;
  for (Value& value : items_of(in.self, in.budget)) {
    const Value key =
        attribute == nullptr || attribute->is_none() ? value : path(value, *attribute, in.budget);
    in.budget.take(static_cast<int64_t>(sizeof(Keyed)));
    found.push_back({without_case(key, case_sensitive, in.budget), std::move(value)});
  }
  return found;
}

// Merge sort: orders as Python does, also where `less` throws or knows no order.
void sort_stable(std::vector<Keyed>& values, bool reverse, Budget& budget) {
  std::stable_sort(values.begin(), values.end(), [&](const Keyed& a, const Keyed& b) {
    if (equal(a.key, b.key, budget)) return false;  // also of what has no order
    return reverse ? less(b.key, a.key, budget) : less(a.key, b.key, budget);
  });
}

Value values_of(std::vector<Keyed> keyed_values, const Input& in) {
  std::vector<Value> values;
  values.reserve(keyed_values.size());
  for (Keyed& item : keyed_values) values.push_back(std::move(item.value));
  return list_of(SequenceKind::list, std::move(values), in);
}

// By one attribute, or by several with commas between them.
Value sort(const Input& in) {
  const bool case_sensitive = in.truth_at(1, false);
  if (in.is_absent(2) || !in.at(2).is_text() || in.at(2).text().bytes.find(',') == std::string::npos) {
    std::vector<Keyed> values = keyed(in, case_sensitive, in.is_absent(2) ? nullptr : &in.at(2));
    sort_stable(values, in.truth_at(0, false), in.budget);
    return values_of(std::move(values), in);
  }
  std::vector<Keyed> values = keyed(in, true, nullptr);
  const std::vector<TextPart> attributes = split(in.at(2).text(), ",", -1, in.budget);
  for (Keyed& value : values) {
    std::vector<Value> keys;
    for (const TextPart& attribute : attributes) {
      const Value key = path(value.value, copy(attribute, in.budget), in.budget);
      keys.push_back(without_case(key, case_sensitive, in.budget));
    }
    value.key = list_of(SequenceKind::list, std::move(keys), in);
  }
  sort_stable(values, in.truth_at(0, false), in.budget);
  return values_of(std::move(values), in);
}

Value dictsort(const Input& in) {
  require(in.self.is_dict(), "{} is sorted as a dict", kind_of(in.self));
  const std::string by = in.has(1) ? in.exact_text_at(1).bytes : "key";
  require(by == "key" || by == "value", "a dict is sorted by something else than its keys or values");
  std::vector<Keyed> values;
  for (const auto& [key, value] : in.self.dict().entries) {
    const Value sort_key = without_case(by == "key" ? key : value, in.truth_at(0, false), in.budget);
    values.push_back({sort_key, list_of(SequenceKind::tuple, {key, value}, in)});
  }
  sort_stable(values, in.truth_at(2, false), in.budget);
  return values_of(std::move(values), in);
}

Value unique(const Input& in) {
  std::vector<Keyed> kept;
  for (Keyed& item : keyed(in, in.truth_at(0, false), in.has(1) ? &in.at(1) : nullptr)) {
    require(
        !item.key.is_dict() && !(item.key.is_sequence() && item.key.sequence().kind != SequenceKind::tuple),
        "{} has no key to compare by", kind_of(item.key));
    const bool seen = std::any_of(kept.begin(), kept.end(),
                                  [&](const Keyed& other) { return equal(other.key, item.key, in.budget); });
    if (!seen) kept.push_back(std::move(item));
  }
  const Value list = values_of(std::move(kept), in);
  return list_of(SequenceKind::iterator, list.sequence().items, in);
}

// The least, or with `greatest` the greatest; of equal ones the first.
Value extreme(const Input& in, bool greatest) {
  std::vector<Keyed> values = keyed(in, in.truth_at(0, false), in.has(1) ? &in.at(1) : nullptr);
  if (values.empty()) return Value::undefined("the least or greatest of an empty list");
  const Keyed* best = values.data();
  for (size_t i = 1; i < values.size(); ++i) {
    const Value& key = values[i].key;
    if (greatest ? less(best->key, key, in.budget) : less(key, best->key, in.budget)) best = &values[i];
  }
  return best->value;
}

Value sum(const Input& in) {
  Value total = in.has(1) ? in.at(1) : Value(int64_t{0});
  require(!total.is_text(), "texts are summed up; join them");
  for (const Value& value : items_of(in.self, in.budget)) {
    total = binary("+", total, in.is_absent(0) ? value : path(value, in.at(0), in.budget), in.budget);
  }
  return total;
}

Value batch(const Input& in) {
  const int64_t size = in.integer_at(0, 0);
  require(size >= 1, "a list is cut into rows of {} items", size);
  std::vector<Value> rows, row;
  const auto close_row = [&] { rows.push_back(list_of(SequenceKind::list, std::exchange(row, {}), in)); };
  for (const Value& value : items_of(in.self, in.budget)) {
    row.push_back(value);
    if (static_cast<int64_t>(row.size()) == size) close_row();
  }
  while (!row.empty() && !in.is_absent(1) && static_cast<int64_t>(row.size()) < size) {
    in.budget.take(static_cast<int64_t>(sizeof(Value)));
    row.push_back(in.at(1));
  }
  if (!row.empty()) close_row();
  return list_of(SequenceKind::iterator, std::move(rows), in);
}

constexpr Builtin kFilters[] = {
    {"length", {}, 0, length},
    {"count", {}, 0, length},
    {"first", {}, 0, first},
    {"last", {}, 0, last},
    {"list", {}, 0, list},
    {"reverse", {}, 0, reverse},
    {"items", {}, 0, items},
    {"sort", {"reverse", "case_sensitive", "attribute"}, 0, sort},
    {"dictsort", {"case_sensitive", "by", "reverse"}, 0, dictsort},
    {"unique", {"case_sensitive", "attribute"}, 0, unique},
    {"min", {"case_sensitive", "attribute"}, 0, [](const Input& in) { return extreme(in, false); }},
    {"max", {"case_sensitive", "attribute"}, 0, [](const Input& in) { return extreme(in, true); }},
    {"sum", {"attribute", "start"}, 0, sum},
    {"batch", {"linecount", "fill_with"}, 1, batch},
};

}  // namespace

std::span<const Builtin> sequence_filters() {
  return kFilters;
}

}  // namespace shadowkv::jinja
