#include "constraint/json_schema.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/check.h"
#include "constraint/schema_compiler.h"
#include "formats/json.h"
#include "formats/quote.h"

namespace shadowkv {
namespace {

constexpr int kMostSchemaDepth = 256;  // of schemas, references followed

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

}  // namespace

// ---- which keywords ---------------------------------------------------------------------------------------

std::vector<std::string> SchemaCompiler::types_of(const SchemaPlace& place) const {
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

void SchemaCompiler::check_keywords(const SchemaPlace& place) const {
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

NodeId SchemaCompiler::value(const SchemaPlace& given, NodeId from) {
  given.require(given.depth <= kMostSchemaDepth, "schemas are nested more than {} deep", kMostSchemaDepth);
  if (!given.has("$id")) return given.has(kFrame) ? framed(given, from) : unframed(given, from);
  SchemaPlace place = given;
  place.root = given.json;
  place.root_path = given.path;
  return place.has(kFrame) ? framed(place, from) : unframed(place, from);
}

// The value within texts that are no part of it, as often as may be.
NodeId SchemaCompiler::framed(const SchemaPlace& place, NodeId from) {
  const SchemaPlace frame = place.at(kFrame);
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
NodeId SchemaCompiler::framed_in_text(const SchemaPlace& place, std::string_view before,
                                      std::string_view after, NodeId from) {
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

NodeId SchemaCompiler::unframed(const SchemaPlace& place, NodeId from) {
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

NodeId SchemaCompiler::typed(const SchemaPlace& place, const std::string& type, NodeId from) {
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

SchemaPlace SchemaCompiler::resolve(const SchemaPlace& place) const {
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

RuleId SchemaCompiler::rule_of(const SchemaPlace& place) {
  const auto found = rules_by_path_.find(place.path);
  if (found != rules_by_path_.end()) return found->second;
  const RuleId rule = grammar_.add_rule();
  rules_by_path_.emplace(place.path, rule);  // before its schema, which may refer to itself
  grammar_.end_rule(value(place, grammar_.first(rule)));
  return rule;
}

NodeId SchemaCompiler::reference(const SchemaPlace& place, NodeId from) {
  SchemaPlace target = resolve(place);
  target.depth = place.depth + 1;  // a chain of references is as deep as it is long
  return grammar_.call(from, rule_of(target));
}

// Of oneOf: no value may satisfy two.
void SchemaCompiler::check_apart(const SchemaPlace& list) const {
  std::set<std::string> seen;
  for (std::size_t i = 0; i < list.schema().size(); ++i) {
    SchemaPlace place = list.at(i);
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

NodeId SchemaCompiler::any_of(const SchemaPlace& place, std::string_view keyword, NodeId from) {
  const SchemaPlace list = place.at(keyword);
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

void add_json_schema(Grammar& grammar, std::string_view schema) {
  const OrderedJsonDocument root =
      parse_ordered_json(schema, "the JSON schema", {.bytes = kMostSchemaBytes, .unique_keys = true});
  SchemaCompiler(grammar, *root).compile();
}

}  // namespace shadowkv
