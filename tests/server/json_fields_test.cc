#include "server/json_fields.h"

#include <gtest/gtest.h>

#include "server/api_error.h"

namespace shadowkv {
namespace {

using Json = nlohmann::ordered_json;

template <typename Read>
std::string refusal(const char* text, const Read& read) {
  const Json object = Json::parse(text);
  try {
    read(JsonFields(object));
  } catch (const ApiError& error) {
    return error.message;
  }
  return "taken";
}

TEST(JsonFieldsOf, AbsentAndNullAreTheSame) {
  const Json object = Json::parse(R"({"a": null})");
  const JsonFields fields(object);
  EXPECT_FALSE(fields.whole("a", {}));
  EXPECT_FALSE(fields.text("b"));
}

TEST(JsonFieldsOf, RangesHoldAtBothEnds) {
  const Json object = Json::parse(R"({"n": 3, "x": 0.5})");
  const JsonFields fields(object);
  EXPECT_EQ(fields.whole("n", {3, 3}), 3);
  EXPECT_EQ(fields.number("x", {0.5, 0.5}), 0.5);
  EXPECT_EQ(fields.number("n", {0, 3}), 3.0);
  const auto whole = [](const JsonFields& f) { (void)f.whole("n", {1, 2}); };
  EXPECT_EQ(refusal(R"({"n": 0})", whole), "n = 0 is out of range; it must be from 1 to 2");
  EXPECT_EQ(refusal(R"({"n": 3})", whole), "n = 3 is out of range; it must be from 1 to 2");
  EXPECT_EQ(refusal(R"({"n": 18446744073709551615})", whole),
            "n = 18446744073709551615 must be a whole number");
  EXPECT_EQ(refusal(R"({"n": 1.0})", whole), "n = 1.0 must be a whole number");
}

TEST(JsonFieldsOf, WrongTypesAreShownShortened) {
  const auto text = [](const JsonFields& f) { (void)f.text("t"); };
  EXPECT_EQ(refusal(R"({"t": true})", text), "t = true must be a string");
  std::string long_list = R"({"t": [0)";
  for (int i = 0; i < 200; ++i) long_list += ", 1";
  long_list += "]}";
  EXPECT_LT(refusal(long_list.c_str(), text).size(), 120);
  EXPECT_EQ(refusal("[1]", text), "the request = [1] must be an object");
}

}  // namespace
}  // namespace shadowkv
