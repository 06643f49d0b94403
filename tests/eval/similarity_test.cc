#include "eval/similarity.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

namespace shadowkv::eval {
namespace {

using Words = std::vector<std::string>;

TEST(Similarities, AreThoseOfThePackagesThatLongBenchUses) {
  std::ifstream file(std::string(SHADOWKV_TEST_DATA) + "/eval/similarity.json");
  const auto pairs = nlohmann::json::parse(file);
  ASSERT_GT(pairs.size(), 50u);
  for (const auto& pair : pairs) {
    const auto output = pair["output"].get<std::string>(), reference = pair["reference"].get<std::string>();
    EXPECT_NEAR(rouge_l(output, reference), pair["rouge_l"].get<double>(), 1e-12) << output << "\n"
                                                                                  << reference;
    EXPECT_EQ(edit_similarity(output, reference), pair["edit"].get<double>()) << output << "\n" << reference;
  }
}

TEST(Similarities, OfWordsCountEachAsOftenAsBothHaveIt) {
  EXPECT_DOUBLE_EQ(words_f1(Words{"a", "b", "b"}, Words{"b", "b", "b", "c"}), 4.0 / 7);
  EXPECT_EQ(words_f1(Words{}, Words{"a"}), 0);
  EXPECT_EQ(words_f1(Words{"a"}, Words{}), 0);
  EXPECT_EQ(words_f1(Words{"a", "b"}, Words{"b", "a"}), 1);
}

TEST(Similarities, CharactersAreTextsOfTheirOwnWithoutWhiteSpace) {
  EXPECT_EQ(characters_of("a é\n水 "), (Words{"a", "é", "水"}));
}

}  // namespace
}  // namespace shadowkv::eval
