// JSON -> values. The library's own objects forget the order of their keys.
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "formats/json_builder.h"
#include "formats/quote.h"
#include "template/template.h"

namespace shadowkv::jinja {
namespace {

// An object or array that is being read.
struct Open {
  bool is_object;
  std::vector<Value> items;  // of an object: keys and values in turn
};

class ValueBuilder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  ValueBuilder(std::string_view text, std::string_view name, Budget& budget)
      : text_(text), name_(name), budget_(budget) {}

  bool null() override { return add(None{}); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(int64_t{value}); }
  bool number_unsigned(number_unsigned_t value) override {
    require(value <= uint64_t{INT64_MAX}, "{}: the number {} is beyond 64 bits", name_, value);
    return add(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    const bool whole = text.find_first_of(".eE") == std::string::npos;
    require(!whole, "{}: the number {} is beyond 64 bits", name_, printable(text));
    return add(double{value});
  }
  bool string(string_t& value) override { return add(given(value)); }
  bool binary(binary_t& /*value*/) override { return false; }  // not in a text
  bool start_object(std::size_t /*elements*/) override { return open(true); }
  bool start_array(std::size_t /*elements*/) override { return open(false); }
  bool key(string_t& key) override { return add(given(key)); }
  bool end_object() override;
  bool end_array() override;
  bool parse_error(std::size_t position, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& error) override {
    throw InvalidInput(fmt::format("{}: {}: this is not JSON ({})", name_,
                                   place_in(text_, position > 0 ? position - 1 : 0),
                                   printable(error.what(), 300)));
  }

  [[nodiscard]] Value finish() { return std::move(root_); }

 private:
  Value given(const std::string& bytes) { return TextBuilder(budget_).add(bytes, true).finish(); }
  bool add(Value value) {
    budget_.take(static_cast<int64_t>(sizeof(Value)));
    if (open_.empty()) {
      root_ = std::move(value);
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }
  bool open(bool is_object) {
    require(static_cast<int64_t>(open_.size()) < kMaxValueDepth - 10,
            "{}: values are nested more than {} deep", name_, kMaxValueDepth - 10);
    open_.push_back({is_object, {}});
    return true;
  }

  std::string_view text_, name_;
  Budget& budget_;
  std::vector<Open> open_;
  Value root_;
};

bool ValueBuilder::end_object() {
  std::vector<Value> items = std::move(open_.back().items);
  open_.pop_back();
  auto dict = std::make_shared<Dict>();
  for (size_t i = 0; i + 1 < items.size(); i += 2)
    put(*dict, std::move(items[i]), std::move(items[i + 1]), budget_);
  return add(Value::DictPointer(dict));
}

bool ValueBuilder::end_array() {
  std::vector<Value> items = std::move(open_.back().items);
  open_.pop_back();
  return add(make_sequence(SequenceKind::list, std::move(items), budget_));
}

}  // namespace

Value value_of_json(std::string_view text, std::string_view name, Budget& budget) {
  ValueBuilder builder(text, name, budget);
  nlohmann::json::sax_parse(text, &builder);
  return builder.finish();
}

}  // namespace shadowkv::jinja
