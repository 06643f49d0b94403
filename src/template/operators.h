// Python's operators on values.
#pragma once

#include "template/value.h"

namespace shadowkv::jinja {

// "+", "-", "*", "/", "//", "%" and "**". Throws InvalidInput for operands they are not defined for, for a
// division by zero and for whole numbers beyond 64 bits.
[[nodiscard]] Value binary(std::string_view symbol, const Value& a, const Value& b, Budget& budget);
[[nodiscard]] Value negative(const Value& value);
// "==", "<", "in", "not in" and their like.
[[nodiscard]] bool compare(std::string_view symbol, const Value& a, const Value& b, Budget& budget);

// value.name and value[key] as templates see them: what is not there is undefined. Throws InvalidInput for
// Python's internal attributes and for parts of undefined values.
[[nodiscard]] Value attribute(const Value& value, std::string_view name, Budget& budget);
[[nodiscard]] Value item(const Value& value, const Value& key, Budget& budget);
// Parts by a path such as "function.name" or "0", of which `fallback` (none where null) replaces undefined
// ones.
[[nodiscard]] Value path(const Value& value, const Value& path, Budget& budget,
                         const Value* fallback = nullptr);

struct Slice {
  Value begin = None{}, end = None{}, step = None{};
};
[[nodiscard]] Value slice(const Value& value, const Slice& bounds, Budget& budget);

// Python's "..." % values.
[[nodiscard]] Text percent_format(const Text& form, const Value& values, Budget& budget);
// Attributes of `loop`.
[[nodiscard]] Value loop_attribute(const Loop& loop, std::string_view name);

}  // namespace shadowkv::jinja
