#include <algorithm>
#include <map>
#include <set>

#include "constraint/regex.h"
#include "constraint/schema_compiler.h"

namespace shadowkv {
namespace {

void read_properties(const SchemaPlace& place, SchemaObject& object) {
  if (!place.has("properties")) return;
  place.require(place.schema().at("properties").is_object(), "properties must be an object");
  for (const auto& [name, value] : place.schema().at("properties").items()) {
    object.names.push_back(name);
    object.values.push_back(&value);
  }
}

void read_required(const SchemaPlace& place, SchemaObject& object) {
  if (!place.has("required")) return;
  const Schema& list = place.schema().at("required");
  place.require(list.is_array(), "required must be a list of names");
  std::set<std::string, std::less<>> known(object.names.begin(), object.names.end());
  for (const Schema& name : list) {
    place.require(name.is_string(), "required must be a list of names");
    const auto text = name.get<std::string>();
    object.required.insert(text);
    if (known.insert(text).second) object.names.push_back(text);
  }
}

}  // namespace

SchemaObject read_object(const SchemaPlace& place) {
  SchemaObject object;
  read_properties(place, object);
  const std::size_t described = object.names.size();
  read_required(place, object);
  if (!place.has("additionalProperties")) {
    object.takes_others = object.names.empty() && !place.has("properties");
    return object;
  }
  const SchemaPlace others = place.at("additionalProperties");
  object.takes_others = others.schema() != Schema(false);
  if (object.takes_others) object.others = others;
  place.require(object.names.size() == described || object.takes_others,
                "required names {}, which additionalProperties forbids",
                in_quotes(object.names.empty() ? "" : object.names.back()));
  return object;
}

NodeId SchemaCompiler::object(const SchemaPlace& place, NodeId from) {
  const SchemaObject object = read_object(place);
  if (object.is_anything()) return grammar_.call(from, rules_.object);
  Tracks at{.empty = space(grammar_.text(from, "{")), .filled = grammar_.add_node()};
  for (std::size_t i = 0; i < object.names.size(); ++i) at = member(place, object, i, at);
  if (object.takes_others)
    grammar_.add_skip(other_member(object.others, object.names, member_start(at)), at.filled);
  const NodeId end = grammar_.text(at.empty, "}");
  grammar_.add_bytes(space(at.filled), '}', '}', end);
  return end;
}

// Where a member begins, behind a comma if it is not the first.
NodeId SchemaCompiler::member_start(const Tracks& from) {
  const NodeId start = grammar_.add_node();
  grammar_.add_skip(from.empty, start);
  grammar_.add_skip(space(grammar_.text(from.filled, ",")), start);
  return start;
}

// The member of the i-th name, left out where it may be.
SchemaCompiler::Tracks SchemaCompiler::member(const SchemaPlace& place, const SchemaObject& object,
                                              std::size_t i, const Tracks& from) {
  const std::string& name = object.names[i];
  const Tracks next{.empty = grammar_.add_node(), .filled = grammar_.add_node()};
  const NodeId colon = grammar_.text(member_start(from), Schema(name).dump() + ":");
  const NodeId behind =
      i < object.values.size()
          ? value(place.below(*object.values[i], fmt::format("properties/{}", name)), space(colon))
          : other_value(object.others, colon);
  grammar_.add_skip(behind, next.filled);
  if (!object.required.contains(name)) {
    grammar_.add_skip(from.empty, next.empty);
    grammar_.add_skip(from.filled, next.filled);
  }
  return next;
}

// Of a member that is not described, behind its colon.
NodeId SchemaCompiler::other_value(const std::optional<SchemaPlace>& value_place, NodeId from) {
  const NodeId before = space(from);
  return value_place ? value(*value_place, before) : grammar_.call(before, rules_.value);
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
NodeId SchemaCompiler::other_member(const std::optional<SchemaPlace>& value_place,
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
  return other_value(value_place, grammar_.text(end, ":"));
}

}  // namespace shadowkv
