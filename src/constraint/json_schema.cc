#include "constraint/json_schema.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"
#include "constraint/json_text.h"
#include "constraint/regex.h"
#include "formats/json.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

using Schema = nlohmann::ordered_json;  // members in the order of the text

constexpr int kMostSchemaDepth = 256;  // of schemas, references followed
constexpr int64_t kMostItems = kMostNodes;

constexpr std::string_view kFrame = "x-frame";
constexpr int64_t kMostFrames = 64;
constexpr std::size_t kMostFrameBytes = 64;

const std::set<std::string_view> kNotes = {
    "title",      "description", "default",   "examples",      "$schema", "$id",         "$comment",
    "deprecated", "readOnly",    "writeOnly", "discriminator", "$defs",   "definitions", kFrame};
const std::map<std::string_view, std::set<std::string_view>> kKeywords = {
    {"object", {"properties", "required", "additionalProperties"}},
    {"array", {"items", "prefixItems", "minItems", "maxItems"}},
    {"string", {"minLength", "maxLength", "pattern", "format"}},
    {"integer", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
    {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
    {"boolean", {}},
    {"null", {}}};
// Keywords that say everything by themselves.
const std::set<std::string_view> kWhole = {"$ref", "anyOf", "oneOf", "allOf", "const", "enum"};

const std::map<std::string_view, std::string_view> kFormats = {
    {"date", R"([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8]))"},
    {"time",
     R"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))"},
    {"uuid", R"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"},
    {"email", R"([A-Za-z0-9_+-]{1,32}(\.[A-Za-z0-9_+-]{1,32})?@[A-Za-z0-9]{1,32}(\.[A-Za-z0-9]{1,32}){1,3})"},
    {"ipv4",
     R"((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3})"}};

// A schema and where it stands.
struct Place {
  const Schema* json;
  std::string path;    // "#/properties/a"
  const Schema* root;  // what "#" names here: the whole, or the innermost schema around that has an $id
  std::string root_path = "#";
  int depth = 0;

  [[nodiscard]] const Schema& schema() const { return *json; }
  // A part of it, by its path from here.
  [[nodiscard]] Place below(const Schema& part, std::string_view where) const {
    return {&part, fmt::format("{}/{}", path, where), root, root_path, depth + 1};
  }
  [[nodiscard]] Place at(std::string_view key) const { return below(schema().at(std::string(key)), key); }
  [[nodiscard]] Place at(std::size_t i) const { return below(schema().at(i), std::to_string(i)); }
  [[nodiscard]] bool has(std::string_view key) const {
    return schema().is_object() && schema().contains(std::string(key));
  }
  template <typename... Args>
  void require(bool holds, fmt::format_string<Args...> what, Args&&... args) const {
    shadowkv::require(holds, "the JSON schema cannot be used: at {}, {}", in_quotes(path),
                      fmt::format(what, std::forward<Args>(args)...));
  }
  [[nodiscard]] int64_t count(std::string_view key, int64_t otherwise) const {
    if (!has(key)) return otherwise;
    const Schema& value = schema().at(std::string(key));
    require(value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(kMostItems),
            "{} must be a whole number from 0 to {}", key, kMostItems);
    return value.get<int64_t>();
  }
};

class SchemaCompiler {
 public:
  SchemaCompiler(Grammar& grammar, const Schema& root)
      : grammar_(grammar), root_(root), rules_(add_json_rules(grammar)) {}

  void compile() {
    rules_by_path_.emplace("#", 0);
    grammar_.end_rule(value({&root_, "#", &root_}, grammar_.first(0)));
  }

 private:
  // All of the following append what a schema allows, and return the node behind.
  NodeId value(const Place& place, NodeId from);
  NodeId framed(const Place& place, NodeId from);
  NodeId framed_in_text(const Place& place, std::string_view before, std::string_view after, NodeId from);
  NodeId unframed(const Place& place, NodeId from);
  NodeId reference(const Place& place, NodeId from);
  NodeId any_of(const Place& place, std::string_view keyword, NodeId from);
  NodeId literals(const Place& place, NodeId from);
  NodeId literal(const Schema& value, NodeId from);
  NodeId typed(const Place& place, const std::string& type, NodeId from);
  NodeId object(const Place& place, NodeId from);
  NodeId member(const Place& value, std::string_view name, NodeId from);
  NodeId other_member(const std::optional<Place>& value, const std::vector<std::string>& names, NodeId from);
  NodeId array(const Place& place, NodeId from);
  NodeId text(const Place& place, NodeId from);
  NodeId whole(const Place& place, NodeId from);

  NodeId space(NodeId from) { return grammar_.call(from, rules_.space); }
  RuleId rule_of(const Place& place);
  void other_name(NodeId from, const std::vector<std::string>& names, std::size_t matched, NodeId rest,
                  NodeId end);
  [[nodiscard]] std::vector<std::string> types_of(const Place& place) const;
  void check_keywords(const Place& place) const;
  void check_apart(const Place& list) const;
  [[nodiscard]] Place resolve(const Place& place) const;

  Grammar& grammar_;
  const Schema& root_;
  JsonRules rules_;
  std::map<std::string, RuleId> rules_by_path_;
};

// ---- which keywords ---------------------------------------------------------------------------------------

std::vector<std::string> SchemaCompiler::types_of(const Place& place) const {
  std::vector<std::string> types;
  if (place.has("type")) {
    const Schema& type = place.schema().at("type");
    const std::vector<Schema> list =
        type.is_array() ? type.get<std::vector<Schema>>() : std::vector<Schema>{type};
    for (const Schema& one : list) {
      const bool is_known = one.is_string() && kKeywords.contains(one.get<std::string>());
      place.require(is_known,
                    "type is {}; it must be object, array, string, integer, number, boolean or null",
                    in_quotes(one.dump()));
      types.push_back(one.get<std::string>());
    }
    place.require(!types.empty(), "type is an empty list");
    return types;
  }
  for (const auto& [type, keywords] : kKeywords) {
    const bool is_named =
        std::any_of(keywords.begin(), keywords.end(), [&](auto key) { return place.has(key); });
    if (is_named && type != "number") types.emplace_back(type);
  }
  place.require(types.size() <= 1, "keywords of {} and {} stand without type; add one",
                types.empty() ? "" : types[0], types.size() < 2 ? "" : types[1]);
  return types;
}

void SchemaCompiler::check_keywords(const Place& place) const {
  for (const auto& [key, ignored] : place.schema().items()) {
    bool is_known = key == "type" || kNotes.contains(key) || kWhole.contains(key);
    for (const auto& [type, keywords] : kKeywords) is_known = is_known || keywords.contains(key);
    place.require(is_known, "the keyword {} is not supported", in_quotes(key));
  }
  std::string whole;
  for (const auto& [key, ignored] : place.schema().items()) {
    if (!kWhole.contains(key)) continue;
    place.require(whole.empty(), "{} and {} stand together, which is not supported", whole, key);
    whole = key;
  }
  if (whole.empty()) return;
  const bool takes_type = whole == "const" || whole == "enum";
  for (const auto& [key, ignored] : place.schema().items()) {
    place.require(key == whole || kNotes.contains(key) || (takes_type && key == "type"),
                  "{} and {} stand together, which is not supported", whole, key);
  }
}

NodeId SchemaCompiler::value(const Place& given, NodeId from) {
  given.require(given.depth <= kMostSchemaDepth, "schemas are nested more than {} deep", kMostSchemaDepth);
  if (!given.has("$id")) return given.has(kFrame) ? framed(given, from) : unframed(given, from);
  Place place = given;
  place.root = given.json;
  place.root_path = given.path;
  return place.has(kFrame) ? framed(place, from) : unframed(place, from);
}

// The value within texts that are no part of it, as often as may be.
NodeId SchemaCompiler::framed(const Place& place, NodeId from) {
  const Place frame = place.at(kFrame);
  frame.require(frame.schema().is_object(), "a frame must be an object");
  for (const auto& [key, value] : frame.schema().items()) {
    const bool is_text = key == "before" || key == "between" || key == "after";
    frame.require((is_text && value.is_string()) || (key == "in_text" && value.is_boolean()) || key == "most",
                  "{} is no part of a frame", in_quotes(key));
  }
  const auto text = [&](const char* key) { return frame.schema().value(key, std::string()); };
  if (frame.schema().value("in_text", false))
    return framed_in_text(place, text("before"), text("after"), from);
  const int64_t most = frame.count("most", 1);
  frame.require(most >= 1 && most <= kMostFrames, "most must be from 1 to {}", kMostFrames);
  const RuleId rule = grammar_.add_rule();
  const NodeId inner = unframed(place, grammar_.text(grammar_.first(rule), text("before")));
  grammar_.end_rule(grammar_.text(inner, text("after")));
  const NodeId end = grammar_.add_node();
  for (int64_t i = 0; i < most; ++i) {
    from = grammar_.call(i == 0 ? from : grammar_.text(from, text("between")), rule);
    grammar_.add_skip(from, end);
  }
  return end;
}

// Text in which `before` begins a frame wherever it comes to stand: a node for each length of it that the
// text ends with.
NodeId SchemaCompiler::framed_in_text(const Place& place, std::string_view before, std::string_view after,
                                      NodeId from) {
  place.require(!before.empty() && before.size() <= kMostFrameBytes,
                "a frame in text must begin with a text of 1 to {} bytes", kMostFrameBytes);
  std::vector<NodeId> nodes;
  for (std::size_t i = 0; i <= before.size(); ++i) nodes.push_back(grammar_.add_node());
  const NodeId end = grammar_.add_node();
  grammar_.add_skip(from, nodes[0]);
  for (std::size_t i = 0; i < before.size(); ++i) {
    grammar_.add_skip(nodes[i], end);
    for (int byte = 0; byte < 256; ++byte) {
      const std::string text = std::string(before.substr(0, i)) + static_cast<char>(byte);
      std::size_t length = text.size();
      while (length > 0 && !std::string_view(text).ends_with(before.substr(0, length))) --length;
      grammar_.add_bytes(nodes[i], static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), nodes[length]);
    }
  }
  const NodeId behind = space(unframed(place, space(nodes.back())));
  grammar_.add_skip(grammar_.text(behind, after), nodes[0]);
  return end;
}

NodeId SchemaCompiler::unframed(const Place& place, NodeId from) {
  if (place.schema().is_boolean()) {
    place.require(place.schema().get<bool>(), "the schema is false, which no value satisfies");
    return grammar_.call(from, rules_.value);
  }
  place.require(place.schema().is_object(), "a schema must be an object, true or false");
  const std::vector<std::string> types = types_of(place);
  check_keywords(place);
  if (place.has("$ref")) return reference(place, from);
  for (const std::string_view key : {"anyOf", "oneOf", "allOf"}) {
    if (place.has(key)) return any_of(place, key, from);
  }
  if (place.has("const") || place.has("enum")) return literals(place, from);
  if (types.empty()) return grammar_.call(from, rules_.value);
  const NodeId end = grammar_.add_node();
  for (const std::string& type : types) {
    const NodeId start = grammar_.add_node();
    grammar_.add_skip(from, start);
    grammar_.add_skip(typed(place, type, start), end);
  }
  return end;
}

NodeId SchemaCompiler::typed(const Place& place, const std::string& type, NodeId from) {
  if (type == "object") return object(place, from);
  if (type == "array") return array(place, from);
  if (type == "string") return text(place, from);
  if (type == "integer") return whole(place, from);
  if (type == "number") {
    for (const std::string_view key : kKeywords.at("number")) {
      place.require(!place.has(key), "the keyword {} is supported for integers alone", key);
    }
    return grammar_.call(from, rules_.number);
  }
  if (type == "null") return grammar_.text(from, "null");
  const NodeId end = grammar_.text(from, "true");
  grammar_.add_skip(grammar_.text(from, "false"), end);
  return end;
}

// ---- references and alternatives --------------------------------------------------------------------------

Place SchemaCompiler::resolve(const Place& place) const {
  const Schema& target = place.schema().at("$ref");
  place.require(target.is_string(), "$ref must be a text");
  const auto path = target.get<std::string>();
  place.require(path == "#" || path.starts_with("#/"),
                "$ref is {}; only places in the schema itself are supported", in_quotes(path));
  const std::string pointer = path.substr(1);
  const Schema* found = nullptr;
  try {
    const Schema::json_pointer where(pointer);
    if (place.root->contains(where)) found = &place.root->at(where);
  } catch (const Schema::exception&) {
  }
  place.require(found != nullptr, "$ref names {}, which does not exist", in_quotes(path));
  return {found, place.root_path + pointer, place.root, place.root_path};
}

RuleId SchemaCompiler::rule_of(const Place& place) {
  const auto found = rules_by_path_.find(place.path);
  if (found != rules_by_path_.end()) return found->second;
  const RuleId rule = grammar_.add_rule();
  rules_by_path_.emplace(place.path, rule);  // before its schema, which may refer to itself
  grammar_.end_rule(value(place, grammar_.first(rule)));
  return rule;
}

NodeId SchemaCompiler::reference(const Place& place, NodeId from) {
  Place target = resolve(place);
  target.depth = place.depth + 1;  // a chain of references is as deep as it is long
  return grammar_.call(from, rule_of(target));
}

// Of oneOf: no value may satisfy two.
void SchemaCompiler::check_apart(const Place& list) const {
  std::set<std::string> seen;
  for (std::size_t i = 0; i < list.schema().size(); ++i) {
    Place place = list.at(i);
    for (int hops = 0; place.has("$ref") && hops < kMostSchemaDepth; ++hops) place = resolve(place);
    const bool is_typed = place.schema().is_object() && place.has("type");
    std::vector<std::string> types = is_typed ? types_of(place) : std::vector<std::string>();
    list.require(!types.empty(),
                 "the alternatives of oneOf cannot be told apart; give each a type, or use anyOf");
    for (std::string& type : types) {
      if (type == "integer") type = "number";
      list.require(seen.insert(type).second, "two alternatives of oneOf may hold at once; use anyOf");
    }
  }
}

NodeId SchemaCompiler::any_of(const Place& place, std::string_view keyword, NodeId from) {
  const Place list = place.at(keyword);
  list.require(list.schema().is_array() && !list.schema().empty(), "{} must be a list of schemas", keyword);
  list.require(keyword != "allOf" || list.schema().size() == 1,
               "allOf of {} schemas is not supported, of one alone", list.schema().size());
  if (keyword == "oneOf") check_apart(list);
  const NodeId end = grammar_.add_node();
  for (std::size_t i = 0; i < list.schema().size(); ++i) {
    const NodeId start = grammar_.add_node();
    grammar_.add_skip(from, start);
    grammar_.add_skip(value(list.at(i), start), end);
  }
  return end;
}

bool has_type(const Schema& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  return type == "null" ? value.is_null() : value.is_boolean();
}

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

NodeId SchemaCompiler::literals(const Place& place, NodeId from) {
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

// ---- objects ----------------------------------------------------------------------------------------------

NodeId SchemaCompiler::member(const Place& value_place, std::string_view name, NodeId from) {
  const NodeId colon = grammar_.text(from, Schema(std::string(name)).dump() + ":");
  return value(value_place, space(colon));
}

// A name that is none of those, whose first `matched` bytes are those that lead to `from`.
void SchemaCompiler::other_name(NodeId from, const std::vector<std::string>& names, std::size_t matched,
                                NodeId rest, NodeId end) {
  std::map<char, std::vector<std::string>> next;
  bool is_name = false;
  for (const std::string& name : names) {
    if (name.size() == matched) {
      is_name = true;
    } else {
      next[name[matched]].push_back(name);
    }
  }
  CharSet others = CharSet::all();
  CharSet escaped(0, 0x1F);
  escaped.add(U'"', U'"');
  escaped.add(U'\\', U'\\');
  others = others.without(escaped);
  for (const auto& [byte, longer] : next) {
    const auto c = static_cast<char32_t>(static_cast<unsigned char>(byte));
    others = others.without({c, c});
    const NodeId to = grammar_.add_node();
    grammar_.add_bytes(from, static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), to);
    other_name(to, longer, matched + 1, rest, end);
  }
  add_chars_to(grammar_, from, others, rest);
  if (!is_name) grammar_.add_bytes(from, '"', '"', end);
}

// Any further member. value: null where it may be anything.
NodeId SchemaCompiler::other_member(const std::optional<Place>& value_place,
                                    const std::vector<std::string>& names, NodeId from) {
  const NodeId inside = grammar_.text(from, "\""), rest = grammar_.add_node(), end = grammar_.add_node();
  for (const std::string& name : names) {
    const bool is_plain = std::all_of(name.begin(), name.end(),
                                      [](char c) { return c >= 0x20 && c < 0x7F && c != '"' && c != '\\'; });
    require(is_plain,
            "the JSON schema cannot be used: additionalProperties beside the property {}, which is not plain "
            "ASCII, "
            "is not supported",
            in_quotes(name));
  }
  other_name(inside, names, 0, rest, end);
  grammar_.add_skip(add_any_string_char(grammar_, rest), rest);
  grammar_.add_bytes(rest, '"', '"', end);
  const NodeId before = space(grammar_.text(end, ":"));
  return value_place ? value(*value_place, before) : grammar_.call(before, rules_.value);
}

NodeId SchemaCompiler::object(const Place& place, NodeId from) {
  std::vector<std::string> names;
  std::vector<const Schema*> values;
  std::set<std::string, std::less<>> required, known;
  if (place.has("properties")) {
    place.require(place.schema().at("properties").is_object(), "properties must be an object");
    for (const auto& [name, value] : place.schema().at("properties").items()) {
      names.push_back(name);
      values.push_back(&value);
      known.insert(name);
    }
  }
  const std::size_t described = names.size();
  if (place.has("required")) {
    const Schema& list = place.schema().at("required");
    place.require(list.is_array(), "required must be a list of names");
    for (const Schema& name : list) {
      place.require(name.is_string(), "required must be a list of names");
      const auto text = name.get<std::string>();
      required.insert(text);
      if (known.insert(text).second) names.push_back(text);
    }
  }
  const bool has_rule = place.has("additionalProperties");
  const bool takes_others = has_rule ? place.schema().at("additionalProperties") != Schema(false)
                                     : names.empty() && !place.has("properties");
  if (names.empty() && takes_others && !has_rule) return grammar_.call(from, rules_.object);
  std::optional<Place> others;
  if (has_rule && takes_others) others.emplace(place.at("additionalProperties"));
  place.require(names.size() == described || !has_rule || takes_others,
                "required names {}, which additionalProperties forbids",
                in_quotes(names.empty() ? "" : names.back()));

  // Two tracks: nothing has been written yet, something has.
  NodeId empty = space(grammar_.text(from, "{")), filled = grammar_.add_node();
  for (std::size_t i = 0; i < names.size(); ++i) {
    const NodeId start = grammar_.add_node(), next_empty = grammar_.add_node(),
                 next_filled = grammar_.add_node();
    grammar_.add_skip(empty, start);
    grammar_.add_skip(space(grammar_.text(filled, ",")), start);
    if (i < described) {
      const Place value_place = place.below(*values[i], fmt::format("properties/{}", names[i]));
      grammar_.add_skip(member(value_place, names[i], start), next_filled);
    } else {
      const NodeId colon = grammar_.text(start, Schema(names[i]).dump() + ":");
      const NodeId before = space(colon);
      grammar_.add_skip(others ? value(*others, before) : grammar_.call(before, rules_.value), next_filled);
    }
    if (!required.contains(names[i])) {
      grammar_.add_skip(empty, next_empty);
      grammar_.add_skip(filled, next_filled);
    }
    empty = next_empty;
    filled = next_filled;
  }
  if (takes_others) {
    const NodeId start = grammar_.add_node();
    grammar_.add_skip(empty, start);
    grammar_.add_skip(space(grammar_.text(filled, ",")), start);
    grammar_.add_skip(other_member(others, names, start), filled);
  }
  const NodeId end = grammar_.text(empty, "}");
  grammar_.add_bytes(space(filled), '}', '}', end);
  return end;
}

// ---- arrays, strings, numbers -----------------------------------------------------------------------------

NodeId SchemaCompiler::array(const Place& place, NodeId from) {
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

NodeId SchemaCompiler::text(const Place& place, NodeId from) {
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

NodeId SchemaCompiler::whole(const Place& place, NodeId from) {
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

}  // namespace

void add_json_schema(Grammar& grammar, std::string_view schema) {
  const OrderedJsonDocument root =
      parse_ordered_json(schema, "the JSON schema", {.bytes = kMostSchemaBytes, .unique_keys = true});
  SchemaCompiler(grammar, *root).compile();
}

}  // namespace shadowkv
