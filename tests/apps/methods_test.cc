#include "methods.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shadowkv/error.h"

namespace shadowkv::apps {
namespace {

using ::testing::ElementsAre;

TEST(Methods, CommasBetweenSettingsBelongToTheirItem) {
  EXPECT_THAT(split_methods("full,default:rank=160,chunk-size=8,paper"),
              ElementsAre("full", "default:rank=160,chunk-size=8", "paper"));
  EXPECT_THAT(split_methods("full;default:rank=160,chunk-size=8;paper:rank=1"),
              ElementsAre("full", "default:rank=160,chunk-size=8", "paper:rank=1"));
  EXPECT_THAT(split_methods("paper:rank=1,default:rank=2"), ElementsAre("paper:rank=1", "default:rank=2"));
  EXPECT_THAT(split_methods("shadow,rank=8"), ElementsAre("shadow:rank=8"));
}

TEST(Methods, EmptyItemsVanish) {
  EXPECT_THAT(split_methods(";full,,"), ElementsAre("full"));
  EXPECT_TRUE(split_methods("").empty());
}

TEST(Methods, SideBySideNothingStaysExactUnlessAskedTo) {
  const auto methods = methods_of({{"shadow;default:rank=64;paper:exact-below=512"}, "full"});
  ASSERT_EQ(methods.size(), 3u);
  EXPECT_EQ(methods[0].config.exact_below, 0);
  EXPECT_EQ(methods[1].config.exact_below, 0);
  EXPECT_EQ(methods[1].config.rank, 64);
  EXPECT_EQ(methods[1].label, "default:rank=64");
  EXPECT_EQ(methods[2].config.exact_below, 512);
}

TEST(Methods, NothingGivenTakesTheCommandsOwnList) {
  const auto methods = methods_of({{}, "full;paper"});
  ASSERT_EQ(methods.size(), 2u);
  EXPECT_EQ(methods[0].config.method, Method::full);
}

TEST(Methods, OneMethodNamedTwiceIsRefused) {
  EXPECT_THROW((void)methods_of({{"full", "full"}, ""}), InvalidInput);
  EXPECT_THROW((void)methods_of({{";"}, ""}), InvalidInput);
}

TEST(Methods, ChangesApplyOverThePresetInTheirOrder) {
  AttentionArguments arguments;
  arguments.preset = "paper";
  arguments.changes = {{"rank", "8"}, {"sparse-budget", "5%"}, {"rank", "9"}};
  const AttentionConfig config = attention_of(arguments);
  EXPECT_EQ(config.rank, 9);
  EXPECT_EQ(config.chunk_size, 8);
  EXPECT_DOUBLE_EQ(config.sparse_budget_share, 0.05);
}

TEST(Methods, AMethodBeginsWithThePresetOfItsName) {
  AttentionArguments arguments;
  arguments.changes = {{"chunk-size", "8"}, {"method", "quest"}};
  const AttentionConfig config = attention_of(arguments);
  EXPECT_EQ(config.method, Method::quest);
  EXPECT_EQ(config.dense_layers, 2);
  EXPECT_EQ(config.chunk_size, 8) << "wherever it stands";
  EXPECT_EQ(description_of(arguments), "quest:chunk-size=8,method=quest");
  arguments.preset = "paper";
  EXPECT_EQ(attention_of(arguments).method, Method::quest);
  EXPECT_EQ(attention_of(arguments).dense_layers, 0);
}

}  // namespace
}  // namespace shadowkv::apps
