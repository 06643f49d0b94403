// What Python's `re` and the jsonschema package take (tools/make_constraint_golden.py).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "constraint/tokens.h"

namespace shadowkv::testing {
namespace {

using Json = nlohmann::ordered_json;

void expect_same(const std::string& name, ConstraintKind kind) {
  std::ifstream file(std::string(SHADOWKV_TEST_DATA) + "/constraint/" + name);
  int64_t texts = 0, taken = 0;
  for (std::string line; std::getline(file, line);) {
    const Json entry = Json::parse(line);
    const std::string source = kind == ConstraintKind::regex ? entry[0].get<std::string>() : entry[0].dump();
    const auto constraint = compile(kind, source);
    for (const auto& [text, expected] : entry[1].items()) {
      EXPECT_EQ(takes(constraint, text), expected.get<bool>()) << source << " and " << text;
      ++texts;
      taken += expected.get<bool>() ? 1 : 0;
    }
  }
  EXPECT_GT(texts, 2'000);
  EXPECT_GT(taken, 400);
}

TEST(ConstraintGolden, PatternsTakeWhatPythonTakes) {
  expect_same("regex.jsonl", ConstraintKind::regex);
}

TEST(ConstraintGolden, SchemasTakeWhatJsonschemaTakes) {
  expect_same("schema.jsonl", ConstraintKind::json_schema);
}

}  // namespace
}  // namespace shadowkv::testing
