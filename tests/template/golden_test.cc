// What the jinja2 package makes of the same templates.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "shadowkv/error.h"
#include "template/template.h"

namespace shadowkv::jinja {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> read_lines(const std::string& name) {
  std::ifstream file(name.starts_with('/') ? name : std::string(SHADOWKV_TEST_DATA) + "/template/" + name);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  EXPECT_FALSE(lines.empty()) << name;
  return lines;
}

// The entries of a JSON object as variables.
Variables variables_of(std::string_view json, Budget& budget) {
  Variables variables;
  const Value object = value_of_json(json, "variables", budget);
  for (const auto& [name, value] : object.dict().entries) variables.emplace_back(name.text().bytes, value);
  return variables;
}

// The rendered text, or null and the reason where it is refused.
std::pair<Json, std::string> render(const std::string& source, const std::string& variables) {
  Budget budget{Limits()};
  try {
    return {Template(source, "t").render(variables_of(variables, budget), budget).bytes, ""};
  } catch (const InvalidInput& error) {
    return {nullptr, error.what()};
  }
}

TEST(TemplateGolden, SmallTemplatesGiveWhatThePackageGives) {
  std::string variables;
  for (const std::string& line : read_lines("variables.json")) variables += line;
  int64_t differing = 0;
  for (const std::string& text : read_lines("snippets.jsonl")) {
    const Json line = Json::parse(text);
    const auto [rendered, reason] = render(line[0].get<std::string>(), variables);
    if (rendered == line[1]) continue;
    ++differing;
    ADD_FAILURE() << line[0] << "\n  expected " << line[1] << "\n  found    " << rendered << " " << reason;
  }
  EXPECT_EQ(differing, 0);
}

void expect_conversations(const std::string& name) {
  const std::vector<std::string> conversations = read_lines("conversations.jsonl");
  for (const std::string& text : read_lines(name)) {
    const Json family = Json::parse(text);
    ASSERT_EQ(family["texts"].size(), conversations.size());
    for (size_t i = 0; i < conversations.size(); ++i) {
      const auto [rendered, reason] = render(family["source"].get<std::string>(), conversations[i]);
      EXPECT_EQ(rendered, family["texts"][i]) << family["name"] << " of " << conversations[i] << "\n"
                                              << reason;
    }
  }
}

TEST(TemplateGolden, FamiliesLayOutConversationsAsThePackageDoes) {
  expect_conversations("families.jsonl");
}

// Templates that are not ours to publish: others.jsonl, as tools/make_template_golden.py makes it of given
// files.
TEST(TemplateGolden, OtherTemplatesLayOutConversationsAsThePackageDoes) {
  const char* path = std::getenv("SHADOWKV_TEST_TEMPLATES");
  if (path == nullptr) GTEST_SKIP() << "SHADOWKV_TEST_TEMPLATES names no absolute path of an others.jsonl";
  expect_conversations(path);
}

}  // namespace
}  // namespace shadowkv::jinja
