// Values of templates: what Python's are to Jinja.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "template/budget.h"
#include "template/text.h"

namespace shadowkv::jinja {

class Value;
struct Loop;  // state of a running loop (interpreter.h)
struct Node;  // of the template's tree (syntax.h)
class Scope;  // names and their values (scope.h)

struct Undefined {
  std::string name;  // of what was asked for, for messages
};
struct None {
  bool operator==(const None& /*other*/) const { return true; }
};

enum class SequenceKind : uint8_t { list, tuple, range, iterator, keys, values, items };

// Lists and all else that is passed through. None of them ever changes.
struct Sequence {
  SequenceKind kind;
  std::vector<Value> items;
  int64_t depth;  // 1 more than that of the deepest item
};

// In order of insertion.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  int64_t depth = 1;
};

// namespace(): the one value that changes. Holds neither functions nor other namespaces, so that no value can
// come to hold itself.
struct Space {
  std::vector<std::pair<std::string, Value>> entries;
};

enum class FunctionKind : uint8_t { builtin, method, macro, caller };

// What can be called. Points into the template and the scope that it was made in; since no list, dict or
// namespace takes one in, it is gone before either.
struct Function {
  FunctionKind kind;
  std::string name;
  std::shared_ptr<const Value> self = nullptr;  // of a method
  const Node* definition = nullptr;             // of a macro or a call block's body
  Scope* scope = nullptr;                       // where that stands
};

class Value {
 public:
  using TextPointer = std::shared_ptr<const Text>;
  using SequencePointer = std::shared_ptr<const Sequence>;
  using DictPointer = std::shared_ptr<const Dict>;
  using SpacePointer = std::shared_ptr<Space>;
  using FunctionPointer = std::shared_ptr<const Function>;

  Value() : data_(std::make_shared<const Undefined>()) {}
  // NOLINTBEGIN(google-explicit-constructor): whatever a template can hold is a value
  Value(None /*none*/) : data_(None{}) {}
  Value(bool value) : data_(value) {}
  Value(int64_t value) : data_(value) {}
  Value(double value) : data_(value) {}
  Value(Text text) : data_(std::make_shared<const Text>(std::move(text))) {}
  Value(DictPointer dict) : data_(std::move(dict)) {}
  Value(SpacePointer space) : data_(std::move(space)) {}
  Value(Loop* loop) : data_(loop) {}
  // NOLINTEND(google-explicit-constructor)
  explicit Value(SequencePointer sequence) : data_(std::move(sequence)) {}
  explicit Value(Function function) : data_(std::make_shared<const Function>(std::move(function))) {}
  explicit Value(const void*) = delete;

  [[nodiscard]] static Value undefined(std::string_view name);
  [[nodiscard]] static Value text(std::string_view bytes) { return Text{std::string(bytes), {}}; }

  [[nodiscard]] bool is_undefined() const { return is<std::shared_ptr<const Undefined>>(); }
  [[nodiscard]] bool is_none() const { return is<None>(); }
  [[nodiscard]] bool is_bool() const { return is<bool>(); }
  [[nodiscard]] bool is_integer() const { return is<int64_t>(); }
  [[nodiscard]] bool is_real() const { return is<double>(); }
  [[nodiscard]] bool is_number() const { return is_bool() || is_integer() || is_real(); }  // as Python has it
  [[nodiscard]] bool is_whole() const { return is_bool() || is_integer(); }
  [[nodiscard]] bool is_text() const { return is<TextPointer>(); }
  [[nodiscard]] bool is_sequence() const { return is<SequencePointer>(); }
  [[nodiscard]] bool is_dict() const { return is<DictPointer>(); }
  [[nodiscard]] bool is_space() const { return is<SpacePointer>(); }
  [[nodiscard]] bool is_function() const { return is<FunctionPointer>(); }
  [[nodiscard]] bool is_loop() const { return is<Loop*>(); }

  // Only of a value of that kind.
  [[nodiscard]] const std::string& undefined_name() const {
    return std::get<std::shared_ptr<const Undefined>>(data_)->name;
  }
  [[nodiscard]] bool boolean() const { return std::get<bool>(data_); }
  [[nodiscard]] int64_t integer() const { return is_bool() ? int64_t{boolean()} : std::get<int64_t>(data_); }
  [[nodiscard]] double real() const {
    return is_real() ? std::get<double>(data_) : static_cast<double>(integer());
  }
  [[nodiscard]] const Text& text() const { return *std::get<TextPointer>(data_); }
  [[nodiscard]] const Sequence& sequence() const { return *std::get<SequencePointer>(data_); }
  [[nodiscard]] const Dict& dict() const { return *std::get<DictPointer>(data_); }
  [[nodiscard]] Space& space() const { return *std::get<SpacePointer>(data_); }
  [[nodiscard]] const Function& function() const { return *std::get<FunctionPointer>(data_); }
  [[nodiscard]] Loop& loop() const { return *std::get<Loop*>(data_); }

  // Whether both are one and the same object, as far as Python says so of all its versions.
  [[nodiscard]] bool same_as(const Value& other) const;

 private:
  template <typename T>
  [[nodiscard]] bool is() const {
    return std::holds_alternative<T>(data_);
  }

  std::variant<std::shared_ptr<const Undefined>, None, bool, int64_t, double, TextPointer, SequencePointer,
               DictPointer, SpacePointer, FunctionPointer, Loop*>
      data_;
};

// What a value is, for messages: "a text", "None", "a list".
[[nodiscard]] std::string_view kind_of(const Value& value);

// Throw InvalidInput for values nested too deep and for functions or namespaces among the items.
[[nodiscard]] Value make_sequence(SequenceKind kind, std::vector<Value> items, Budget& budget);
// Adds an entry, or replaces the value of an equal key. Throws InvalidInput for what cannot be a key, too.
void put(Dict& dict, Value key, Value value, Budget& budget);
[[nodiscard]] const Value* find(const Dict& dict, const Value& key, Budget& budget);
[[nodiscard]] const Value* find(const Dict& dict, std::string_view key, Budget& budget);
// Throws InvalidInput for what neither a container nor a namespace may hold.
void check_storable(const Value& value);

// Python's bool(), ==, and < where `less` is defined; they throw InvalidInput otherwise.
[[nodiscard]] bool truth(const Value& value);
[[nodiscard]] bool equal(const Value& a, const Value& b, Budget& budget);
[[nodiscard]] bool less(const Value& a, const Value& b, Budget& budget);
// `item in container`.
[[nodiscard]] bool contains(const Value& container, const Value& item, Budget& budget);
// The items a loop over the value sees: of a text its characters, of a dict its keys. Throws InvalidInput for
// others.
[[nodiscard]] std::vector<Value> items_of(const Value& value, Budget& budget);
// Python's len(); throws InvalidInput for what has none.
[[nodiscard]] int64_t length_of(const Value& value);

// Throws InvalidInput naming an undefined value that is used.
void require_defined(const Value& value);

}  // namespace shadowkv::jinja
