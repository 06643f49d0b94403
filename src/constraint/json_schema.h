// JSON schemas as constraints. What is written satisfies the schema; not everything that satisfies it is
// written: members come in the order of `properties`, then others, and white space is bounded (json_text.h).
//
// Understood are
//   type (one or a list), enum, const, $ref into the schema ("#", "#/$defs/..."), $defs, definitions;
//   anyOf; oneOf whose alternatives have different types; allOf of one;
//   of objects properties, required, additionalProperties (which nothing but its own presence allows beside
//     properties);
//   of arrays items, prefixItems, minItems, maxItems;
//   of strings minLength, maxLength, pattern (regex.h), format: date, time, date-time, uuid, email, ipv4;
//   of integers minimum, maximum, exclusiveMinimum, exclusiveMaximum;
//   $id, of which only that "#" within its schema is that schema;
//   x-frame, {"before", "between", "after": texts, "most": 1 to 64}, for answers that are more than JSON: the
//     value stands between two texts, once or up to so many times with a text in between; with "in_text":
//     true instead of the latter two within any text, as often as `before` comes to stand in it.
// title, description, default, examples, $schema, $comment, deprecated, readOnly, writeOnly and discriminator
// say nothing about values. Every other keyword, and what does not go together, is refused by
// name with its place.
#pragma once

#include <string_view>

#include "constraint/grammar.h"

namespace shadowkv {

inline constexpr int64_t kMostSchemaBytes = int64_t{128} << 10;

// Makes what satisfies the schema the grammar's first rule, which is declared and empty. Throws InvalidInput.
void add_json_schema(Grammar& grammar, std::string_view schema);

}  // namespace shadowkv
