// Functions, and methods of lists and dicts.
#include <algorithm>
#include <array>
#include <ctime>

#include "base/check.h"
#include "formats/quote.h"
#include "template/builtins.h"
#include "template/operators.h"
#include "template/writing.h"

namespace shadowkv::jinja {
namespace {

Value range(const Input& in) {
  require(in.given.named.empty() && !in.given.positional.empty() && in.given.positional.size() <= 3,
          "\"range\" takes one to three numbers");
  std::array<int64_t, 3> numbers = {0, 0, 1};  // begin, end, step
  const size_t count = in.given.positional.size();
  for (size_t i = 0; i < count; ++i) {
    const Value& value = in.given.positional[i];
    require(value.is_whole(), "\"range\" is given {}", kind_of(value));
    numbers[count == 1 ? 1 : i] = value.integer();
  }
  const auto [begin, end, step] = numbers;
  require(step != 0, "\"range\" is given a step of zero");
  const double length = (static_cast<double>(end) - static_cast<double>(begin)) / static_cast<double>(step);
  require(length <= static_cast<double>(kMaxRange), "a range has more than {} numbers", kMaxRange);
  in.budget.take(std::max<int64_t>(static_cast<int64_t>(length), 0) * static_cast<int64_t>(sizeof(Value)));
  std::vector<Value> items;
  for (int64_t at = begin; step > 0 ? at < end : at > end;) {
    items.emplace_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return make_sequence(SequenceKind::range, std::move(items), in.budget);
}

// The entries of a mapping or of pairs, then what is named.
Dict entries_of(const Input& in) {
  require(in.given.positional.size() <= 1, "a dict or namespace is made of more than one value");
  Dict dict;
  if (!in.given.positional.empty()) {
    const Value& from = in.given.positional[0];
    if (from.is_dict()) {
      for (const auto& [key, value] : from.dict().entries) put(dict, key, value, in.budget);
    } else {
      for (const Value& pair : items_of(from, in.budget)) {
        const std::vector<Value> both = items_of(pair, in.budget);
        require(both.size() == 2, "a dict is made of something else than pairs");
        put(dict, both[0], both[1], in.budget);
      }
    }
  }
  for (const auto& [name, value] : in.given.named) put(dict, Value::text(name), value, in.budget);
  return dict;
}

Value dict(const Input& in) {
  return Value::DictPointer(std::make_shared<const Dict>(entries_of(in)));
}

Value space(const Input& in) {
  auto made = std::make_shared<Space>();
  for (const auto& [key, value] : entries_of(in).entries) {
    require(key.is_text(), "an attribute of a namespace is {}", kind_of(key));
    made->entries.emplace_back(key.text().bytes, value);
  }
  return made;
}

Value raise_exception(const Input& in) {
  throw InvalidInput("it refuses the conversation: " + printable(to_text(in.at(0), in.budget).bytes, 300));
}

Value strftime_now(const Input& in) {
  const std::string& form = in.exact_text_at(0).bytes;
  require(form.size() <= 100, "the form of a date has more than 100 bytes");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::array<char, 1024> buffer{};
  const size_t size = std::strftime(buffer.data(), buffer.size(), form.c_str(), &local);
  require(size > 0 || form.empty(), "the form of a date, {}, gives none", in_quotes(form));
  return Value::text(std::string_view(buffer.data(), size));
}

Value keys(const Input& in) {
  return make_sequence(SequenceKind::keys, items_of(in.self, in.budget), in.budget);
}

Value values(const Input& in) {
  std::vector<Value> found;
  for (const auto& entry : in.self.dict().entries) found.push_back(entry.second);
  return make_sequence(SequenceKind::values, std::move(found), in.budget);
}

Value items(const Input& in) {
  std::vector<Value> found;
  for (const auto& [key, value] : in.self.dict().entries)
    found.push_back(make_sequence(SequenceKind::tuple, {key, value}, in.budget));
  return make_sequence(SequenceKind::items, std::move(found), in.budget);
}

Value get(const Input& in) {
  require(!in.at(0).is_dict() && !(in.at(0).is_sequence() && in.at(0).sequence().kind != SequenceKind::tuple),
          "{} is looked for among the keys of a dict", kind_of(in.at(0)));
  if (const Value* found = find(in.self.dict(), in.at(0), in.budget)) return *found;
  return in.has(1) ? in.at(1) : Value(None{});
}

Value count(const Input& in) {
  const auto& all = in.self.sequence().items;
  return static_cast<int64_t>(std::count_if(
      all.begin(), all.end(), [&](const Value& item) { return equal(item, in.at(0), in.budget); }));
}

Value index(const Input& in) {
  const auto& all = in.self.sequence().items;
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const Value& item) { return equal(item, in.at(0), in.budget); });
  require(found != all.end(), "an item that is looked for is not in a list");
  return static_cast<int64_t>(found - all.begin());
}

constexpr Builtin kFunctions[] = {
    {"range", kAnyArguments, 0, range},
    {"dict", kAnyArguments, 0, dict},
    {"namespace", kAnyArguments, 0, space},
    {"raise_exception", {"message"}, 1, raise_exception},
    {"strftime_now", {"format"}, 1, strftime_now},
};
constexpr Builtin kDictMethods[] = {
    {"get", {"key", "default"}, 1, get},
    {"keys", {}, 0, keys},
    {"values", {}, 0, values},
    {"items", {}, 0, items},
    {"copy", {}, 0, [](const Input& in) { return in.self; }},
};
constexpr Builtin kListMethods[] = {
    {"count", {"value"}, 1, count},
    {"index", {"value"}, 1, index},
    {"copy", {}, 0, [](const Input& in) { return in.self; }},
};

template <size_t size>
const Builtin* find_in(const Builtin (&table)[size], std::string_view name) {
  const auto* found =
      std::ranges::find_if(table, [&](const Builtin& builtin) { return builtin.name == name; });
  return found == std::end(table) ? nullptr : found;
}

}  // namespace

const Builtin* find_function(std::string_view name) {
  return find_in(kFunctions, name);
}

const Builtin* find_method(const Value& self, std::string_view name) {
  if (self.is_text()) return find_text_method(name);
  if (self.is_dict()) return find_in(kDictMethods, name);
  if (!self.is_sequence() || self.sequence().kind > SequenceKind::range) return nullptr;
  const Builtin* found = find_in(kListMethods, name);
  return name == "copy" && self.sequence().kind != SequenceKind::list ? nullptr : found;
}

}  // namespace shadowkv::jinja
