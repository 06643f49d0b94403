// What a JSON schema allows, written into a grammar: one object a schema, each part of it by its own file.
#pragma once

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "constraint/grammar.h"
#include "constraint/json_text.h"
#include "formats/quote.h"

namespace shadowkv {

using Schema = nlohmann::ordered_json;  // members in the order of the text

inline constexpr int64_t kMostItems = kMostNodes;

// A schema and where it stands.
struct SchemaPlace {
  const Schema* json;
  std::string path;    // "#/properties/a"
  const Schema* root;  // what "#" names here: the whole, or the innermost schema around that has an $id
  std::string root_path = "#";
  int depth = 0;

  [[nodiscard]] const Schema& schema() const { return *json; }
  // A part of it, by its path from here.
  [[nodiscard]] SchemaPlace below(const Schema& part, std::string_view where) const {
    return {&part, fmt::format("{}/{}", path, where), root, root_path, depth + 1};
  }
  [[nodiscard]] SchemaPlace at(std::string_view key) const {
    return below(schema().at(std::string(key)), key);
  }
  [[nodiscard]] SchemaPlace at(std::size_t i) const { return below(schema().at(i), std::to_string(i)); }
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

// What an object's members may be.
struct SchemaObject {
  std::vector<std::string> names;     // those that are described, then others that are required
  std::vector<const Schema*> values;  // of those that are described
  std::set<std::string, std::less<>> required;
  bool takes_others = false;          // of any other name
  std::optional<SchemaPlace> others;  // what their values must be; none: anything

  [[nodiscard]] bool is_anything() const { return names.empty() && takes_others && !others; }
};
// Throws InvalidInput where the schema is wrong or contradicts itself.
[[nodiscard]] SchemaObject read_object(const SchemaPlace& place);

class SchemaCompiler {
 public:
  SchemaCompiler(Grammar& grammar, const Schema& root)
      : grammar_(grammar), root_(root), rules_(add_json_rules(grammar)) {}

  void compile() {
    rules_by_path_.emplace("#", 0);
    grammar_.end_rule(value({&root_, "#", &root_}, grammar_.first(0)));
  }

 private:
  // All that return a node append what a schema allows, and return the node behind.
  NodeId value(const SchemaPlace& place, NodeId from);
  NodeId framed(const SchemaPlace& place, NodeId from);
  NodeId framed_in_text(const SchemaPlace& place, std::string_view before, std::string_view after,
                        NodeId from);
  NodeId unframed(const SchemaPlace& place, NodeId from);
  NodeId typed(const SchemaPlace& place, const std::string& type, NodeId from);
  NodeId reference(const SchemaPlace& place, NodeId from);
  NodeId any_of(const SchemaPlace& place, std::string_view keyword, NodeId from);
  [[nodiscard]] std::vector<std::string> types_of(const SchemaPlace& place) const;
  void check_keywords(const SchemaPlace& place) const;
  void check_apart(const SchemaPlace& list) const;
  [[nodiscard]] SchemaPlace resolve(const SchemaPlace& place) const;
  RuleId rule_of(const SchemaPlace& place);
  NodeId space(NodeId from) { return grammar_.call(from, rules_.space); }

  // ---- schema_object.cc
  // Where an object's text stands: nothing of it has been written yet, something has.
  struct Tracks {
    NodeId empty;
    NodeId filled;
  };
  NodeId object(const SchemaPlace& place, NodeId from);
  Tracks member(const SchemaPlace& place, const SchemaObject& object, std::size_t i, const Tracks& from);
  NodeId member_start(const Tracks& from);
  NodeId other_member(const std::optional<SchemaPlace>& value, const std::vector<std::string>& names,
                      NodeId from);
  void other_name(NodeId from, const std::vector<std::string>& names, std::size_t matched, NodeId rest,
                  NodeId end);
  NodeId other_value(const std::optional<SchemaPlace>& value, NodeId from);

  // ---- schema_values.cc
  NodeId literals(const SchemaPlace& place, NodeId from);
  NodeId literal(const Schema& value, NodeId from);
  NodeId array(const SchemaPlace& place, NodeId from);
  NodeId text(const SchemaPlace& place, NodeId from);
  NodeId whole(const SchemaPlace& place, NodeId from);

  Grammar& grammar_;
  const Schema& root_;
  JsonRules rules_;
  std::map<std::string, RuleId> rules_by_path_;
};

}  // namespace shadowkv
