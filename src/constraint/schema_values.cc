#include <algorithm>
#include <map>

#include "constraint/regex.h"
#include "constraint/schema_compiler.h"

namespace shadowkv {
namespace {

const std::map<std::string_view, std::string_view> kFormats = {
    {"date", R"([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8]))"},
    {"time",
     R"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))"},
    {"uuid", R"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"},
    {"email", R"([A-Za-z0-9_+-]{1,32}(\.[A-Za-z0-9_+-]{1,32})?@[A-Za-z0-9]{1,32}(\.[A-Za-z0-9]{1,32}){1,3})"},
    {"ipv4",
     R"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3})"}};

bool has_type(const Schema& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  return type == "null" ? value.is_null() : value.is_boolean();
}

}  // namespace

// ---- values that stand in the schema ----------------------------------------------------------------------

// A value, with white space where others have it.
NodeId SchemaCompiler::literal(const Schema& value, NodeId from) {
  if (!value.is_structured()) return grammar_.text(from, value.dump());
  from = grammar_.text(from, value.is_object() ? "{" : "[");
  bool is_first = true;
  for (const auto& [key, inner] : value.items()) {
    if (!std::exchange(is_first, false)) from = space(grammar_.text(from, ","));
    if (value.is_object()) from = space(grammar_.text(from, Schema(key).dump() + ":"));
    from = literal(inner, from);
  }
  return grammar_.text(from, value.is_object() ? "}" : "]");
}

NodeId SchemaCompiler::literals(const SchemaPlace& place, NodeId from) {
  const std::vector<std::string> types = types_of(place);
  std::vector<Schema> values;
  if (place.has("const")) {
    values.push_back(place.schema().at("const"));
  } else {
    place.require(place.schema().at("enum").is_array(), "enum must be a list");
    values = place.schema().at("enum").get<std::vector<Schema>>();
  }
  const NodeId end = grammar_.add_node();
  bool is_empty = true;
  for (const Schema& one : values) {
    const bool fits = types.empty() || std::any_of(types.begin(), types.end(),
                                                   [&](const auto& type) { return has_type(one, type); });
    if (!fits) continue;
    is_empty = false;
    const NodeId start = grammar_.add_node();
    grammar_.add_skip(from, start);
    grammar_.add_skip(literal(one, start), end);
  }
  place.require(!is_empty, "no value of enum or const has the type");
  return end;
}

// ---- arrays, strings, numbers -----------------------------------------------------------------------------

NodeId SchemaCompiler::array(const SchemaPlace& place, NodeId from) {
  std::size_t described = 0;
  if (place.has("prefixItems")) {
    place.require(place.schema().at("prefixItems").is_array(), "prefixItems must be a list of schemas");
    described = place.schema().at("prefixItems").size();
  }
  const auto first_ones = static_cast<int64_t>(described);
  const bool takes_more = !place.has("items") || place.schema().at("items") != Schema(false);
  const int64_t least = place.count("minItems", 0);
  int64_t most = place.count("maxItems", -1);
  if (!takes_more) most = most < 0 ? first_ones : std::min(most, first_ones);
  place.require(most < 0 || least <= most, "minItems = {} is more than {} items that may be there", least,
                most);
  std::optional<RuleId> more;
  const auto element = [&](int64_t i, NodeId start) {
    if (i < first_ones) return value(place.at("prefixItems").at(static_cast<std::size_t>(i)), start);
    if (!place.has("items")) return grammar_.call(start, rules_.value);
    if (!more) more = rule_of(place.at("items"));
    return grammar_.call(start, *more);
  };

  const NodeId end = grammar_.add_node();
  NodeId at = space(grammar_.text(from, "["));
  if (least == 0) grammar_.add_bytes(at, ']', ']', end);
  if (most == 0) return end;
  // Without an upper bound the last element that differs from those behind it is repeated.
  const int64_t steps = most < 0 ? std::max<int64_t>({least, first_ones + 1, 1}) : most;
  for (int64_t i = 0; i < steps; ++i) {
    const NodeId start = i == 0 ? at : space(grammar_.text(at, ","));
    at = element(i, start);
    if (i + 1 >= least) grammar_.add_bytes(space(at), ']', ']', end);
    if (most < 0 && i + 1 == steps) grammar_.add_skip(space(grammar_.text(at, ",")), start);
  }
  return end;
}

NodeId SchemaCompiler::text(const SchemaPlace& place, NodeId from) {
  const bool is_counted = place.has("minLength") || place.has("maxLength");
  const int kinds = (is_counted ? 1 : 0) + (place.has("pattern") ? 1 : 0) + (place.has("format") ? 1 : 0);
  place.require(kinds <= 1, "of pattern, format and lengths of a string only one is supported at a time");
  if (kinds == 0) return grammar_.call(from, rules_.text);
  const NodeId inside = grammar_.text(from, "\"");
  if (is_counted) {
    const int64_t least = place.count("minLength", 0), most = place.count("maxLength", -1);
    place.require(most < 0 || least <= most, "minLength = {} is more than maxLength = {}", least, most);
    const NodeId end = grammar_.add_node();
    NodeId at = inside;
    for (int64_t i = 0; i < (most < 0 ? least : most); ++i) {
      if (i >= least) grammar_.add_bytes(at, '"', '"', end);
      at = add_any_string_char(grammar_, at);
    }
    if (most < 0) grammar_.add_skip(add_any_string_char(grammar_, at), at);
    grammar_.add_bytes(at, '"', '"', end);
    return end;
  }
  const std::string key = place.has("pattern") ? "pattern" : "format";
  const Schema& given = place.schema().at(key);
  place.require(given.is_string(), "{} must be a text", key);
  std::string pattern = given.get<std::string>();
  if (key == "format") {
    const bool is_moment = pattern == "date-time";
    const auto found = kFormats.find(is_moment ? "date" : pattern);
    place.require(found != kFormats.end(), "the format {} is not supported", in_quotes(pattern));
    pattern =
        fmt::format("^({}){}$", found->second, is_moment ? fmt::format("T({})", kFormats.at("time")) : "");
  }
  return grammar_.text(add_regex(grammar_, inside, pattern, RegexMatch::search, add_string_char), "\"");
}

NodeId SchemaCompiler::whole(const SchemaPlace& place, NodeId from) {
  int64_t least = -kLargestWhole, most = kLargestWhole;
  const auto bound = [&](std::string_view key) -> std::optional<int64_t> {
    if (!place.has(key)) return std::nullopt;
    const Schema& given = place.schema().at(std::string(key));
    const bool fits =
        given.is_number_integer() && given <= Schema(kLargestWhole) && given >= Schema(-kLargestWhole);
    place.require(fits, "{} must be a whole number from -{} to {}", key, kLargestWhole, kLargestWhole);
    return given.get<int64_t>();
  };
  if (const auto x = bound("minimum")) least = std::max(least, *x);
  if (const auto x = bound("exclusiveMinimum")) least = std::max(least, *x + 1);
  if (const auto x = bound("maximum")) most = std::min(most, *x);
  if (const auto x = bound("exclusiveMaximum")) most = std::min(most, *x - 1);
  place.require(least <= most && most >= -kLargestWhole && least <= kLargestWhole,
                "no integer lies between {} and {}", least, most);
  return add_whole(grammar_, from, least, most);
}

}  // namespace shadowkv
