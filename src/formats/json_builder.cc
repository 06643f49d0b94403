#include "formats/json_builder.h"

#include <algorithm>

#include "base/check.h"
#include "formats/quote.h"

namespace shadowkv {

std::string place_in(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t newline = before.rfind('\n');
  const std::size_t column = newline == std::string_view::npos ? before.size() + 1 : before.size() - newline;
  return fmt::format("line {}, column {}", line, column);
}

// As deep as the value, which the parser's limit bounds.
void empty_json(nlohmann::json& value) noexcept {
  if (!value.is_structured()) return;
  for (nlohmann::json& part : value) empty_json(part);
  value.clear();
}

bool JsonBuilder::key(string_t& key) {
  auto& object = open_.back()->get_ref<Json::object_t&>();
  const auto [found, is_new] = object.try_emplace(std::move(key));
  require(is_new || !unique_keys_, "{}: the key {} appears twice", name_, in_quotes(found->first));
  field_ = &found->second;
  empty_json(*field_);
  return true;
}

bool JsonBuilder::parse_error(std::size_t position, const std::string& /*last_token*/,
                              const nlohmann::detail::exception& error) {
  throw InvalidInput(fmt::format("{}: {}: this is not JSON ({})", name_,
                                 place_in(text_, position > 0 ? position - 1 : 0),
                                 printable(error.what(), 300)));
}

bool JsonBuilder::put(Json value) {
  place(std::move(value));
  return true;
}

bool JsonBuilder::open(Json container) {
  open_.push_back(&place(std::move(container)));
  return true;
}

bool JsonBuilder::close() {
  open_.pop_back();
  return true;
}

// Where the value goes; it holds nothing yet but itself.
JsonBuilder::Json& JsonBuilder::place(Json value) {
  if (open_.empty()) return root_ = std::move(value);
  if (!open_.back()->is_array()) return *field_ = std::move(value);
  auto& array = open_.back()->get_ref<Json::array_t&>();
  return array.emplace_back(std::move(value));
}

}  // namespace shadowkv
