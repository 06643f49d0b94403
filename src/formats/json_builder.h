// What a parser reads, as a value that its owner can empty whatever happens meanwhile.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv {

// Json: nlohmann's json or ordered_json. Time is n log n in the bytes of the text for both: the library's own
// reader takes the square of an object's members for the latter.
template <typename Json>
class JsonBuilder final : public nlohmann::json_sax<Json> {
 public:
  using string_t = typename Json::string_t;

  // All three outlive the builder; `name` stands for the text in messages.
  JsonBuilder(Json& root, std::string_view text, std::string_view name, bool unique_keys)
      : root_(root), text_(text), name_(name), unique_keys_(unique_keys) {}

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(typename Json::number_integer_t value) override { return put(value); }
  bool number_unsigned(typename Json::number_unsigned_t value) override { return put(value); }
  bool number_float(typename Json::number_float_t value, const string_t& /*text*/) override {
    return put(value);
  }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(typename Json::binary_t& /*value*/) override { return false; }  // not in a text
  bool start_object(std::size_t /*elements*/) override { return open(Json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t /*elements*/) override { return open(Json::array()); }
  bool end_array() override { return close(); }
  // Throws InvalidInput for a repeated key where keys must be unique; else the last of its values counts.
  bool key(string_t& key) override;
  // Throws InvalidInput with the place.
  bool parse_error(std::size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& error) override;

 private:
  struct Open {
    Json* value;
    std::map<std::string, std::size_t> places;  // of members of an ordered object, once there are many
  };

  bool put(Json value);
  bool open(Json container);
  bool close();
  Json& place(Json value);
  std::pair<Json*, bool> member(string_t& key);

  Json& root_;
  std::string_view text_;
  std::string_view name_;
  bool unique_keys_;
  std::vector<Open> open_;  // objects and arrays that are not closed, outermost first
  Json* field_ = nullptr;   // of the innermost, where it is an object: takes the next value
};

// "line 3, column 7" of the byte at `offset`, both from 1.
[[nodiscard]] std::string place_in(std::string_view text, std::size_t offset);

// Empties a value and all within it without asking for memory.
template <typename Json>
void empty_json(Json& value) noexcept;

}  // namespace shadowkv
