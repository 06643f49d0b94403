#include "formats/json_builder.h"

#include <algorithm>
#include <type_traits>

#include "base/check.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

constexpr std::size_t kFewMembers = 16;  // are looked through one by one

}  // namespace

std::string place_in(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t newline = before.rfind('\n');
  const std::size_t column = newline == std::string_view::npos ? before.size() + 1 : before.size() - newline;
  return fmt::format("line {}, column {}", line, column);
}

// As deep as the value, which the parser's limit bounds.
template <typename Json>
void empty_json(Json& value) noexcept {
  if (!value.is_structured()) return;
  for (Json& part : value) empty_json(part);
  value.clear();
}

template <typename Json>
bool JsonBuilder<Json>::key(string_t& key) {
  const auto [field, is_new] = member(key);
  require(is_new || !unique_keys_, "{}: the key {} appears twice", name_, in_quotes(key));
  field_ = field;
  empty_json(*field_);
  return true;
}

// The member of that name, of the innermost object, and whether it is new.
template <typename Json>
std::pair<Json*, bool> JsonBuilder<Json>::member(string_t& key) {
  auto& object = open_.back().value->template get_ref<typename Json::object_t&>();
  if constexpr (std::is_same_v<Json, nlohmann::json>) {
    const auto [found, is_new] = object.try_emplace(key);
    return {&found->second, is_new};
  } else {
    auto& places = open_.back().places;
    if (object.size() < kFewMembers) {
      const auto found = object.find(key);
      if (found != object.end()) return {&found->second, false};
    } else {
      if (places.empty()) {
        for (std::size_t i = 0; i < object.size(); ++i)
          places.emplace(object.begin()[static_cast<std::ptrdiff_t>(i)].first, i);
      }
      const auto [found, is_new] = places.try_emplace(key, object.size());
      if (!is_new) return {&object.begin()[static_cast<std::ptrdiff_t>(found->second)].second, false};
    }
    object.emplace_back(key, nullptr);
    return {&object.back().second, true};
  }
}

template <typename Json>
bool JsonBuilder<Json>::parse_error(std::size_t position, const std::string& /*last_token*/,
                                    const nlohmann::detail::exception& error) {
  throw InvalidInput(fmt::format("{}: {}: this is not JSON ({})", name_,
                                 place_in(text_, position > 0 ? position - 1 : 0),
                                 printable(error.what(), 300)));
}

template <typename Json>
bool JsonBuilder<Json>::put(Json value) {
  place(std::move(value));
  return true;
}

template <typename Json>
bool JsonBuilder<Json>::open(Json container) {
  open_.push_back({.value = &place(std::move(container)), .places = {}});
  return true;
}

template <typename Json>
bool JsonBuilder<Json>::close() {
  open_.pop_back();
  return true;
}

// Where the value goes; it holds nothing yet but itself.
template <typename Json>
Json& JsonBuilder<Json>::place(Json value) {
  if (open_.empty()) return root_ = std::move(value);
  if (!open_.back().value->is_array()) return *field_ = std::move(value);
  auto& array = open_.back().value->template get_ref<typename Json::array_t&>();
  return array.emplace_back(std::move(value));
}

template class JsonBuilder<nlohmann::json>;
template class JsonBuilder<nlohmann::ordered_json>;
template void empty_json(nlohmann::json& value) noexcept;
template void empty_json(nlohmann::ordered_json& value) noexcept;

}  // namespace shadowkv
