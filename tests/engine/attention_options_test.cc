#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "shadowkv/attention_config.h"
#include "shadowkv/error.h"

namespace shadowkv {
namespace {

using testing::HasSubstr;

std::string message_of(std::string_view attention) {
  try {
    (void)parse_attention(attention);
  } catch (const InvalidInput& error) {
    return error.what();
  }
  return "";
}

std::string value_of(const AttentionConfig& config, std::string_view name) {
  for (const AttentionOption& option : list_options(config)) {
    if (option.name == name) return option.value;
  }
  return "no such option";
}

void expect_same(const AttentionConfig& a, const AttentionConfig& b) {
  const auto left = list_options(a);
  const auto right = list_options(b);
  for (std::size_t i = 0; i < left.size(); ++i) EXPECT_EQ(left[i].value, right[i].value) << left[i].name;
}

TEST(AttentionOptions, EveryPresetSurvivesItsOwnText) {
  for (const std::string& name : preset_names()) {
    AttentionConfig copy;
    copy.rank = 7;
    for (const AttentionOption& option : list_options(preset(name)))
      set_option(copy, option.name, option.value);
    expect_same(copy, preset(name));
  }
}

TEST(AttentionOptions, AShareSurvivesItsOwnText) {
  const AttentionConfig share = parse_attention("default:sparse-budget=1.6%,rerank=1.5");
  EXPECT_DOUBLE_EQ(share.sparse_budget_share, 0.016);
  AttentionConfig copy;
  for (const AttentionOption& option : list_options(share)) set_option(copy, option.name, option.value);
  EXPECT_EQ(copy.sparse_budget_share, share.sparse_budget_share);
  EXPECT_EQ(copy.rerank, 1.5);
}

TEST(AttentionOptions, ATokenBudgetReplacesAShare) {
  const AttentionConfig config = parse_attention("default:sparse-budget=5%,sparse-budget=64");
  EXPECT_EQ(config.sparse_budget, 64);
  EXPECT_EQ(config.sparse_budget_share, 0.0);
}

TEST(AttentionOptions, EveryFieldOfTheConfigurationIsListed) {
  AttentionConfig other;
  other.method = Method::full;
  other.exact_below = 1;
  other.dense_layers = 2;
  other.index = IndexKind::landmarks;
  other.sketch_bits = 2;
  other.chunk_size = 3;
  other.sparse_budget = 5;
  other.sparse_budget_per = 6;
  other.sparse_budget_share = 0.5;
  other.rerank = 3.5;
  other.rank = 9;
  other.factors = StorageType::float32;
  other.values = StorageType::int8;
  other.landmarks = StorageType::int8;
  other.outlier_chunks = 10;
  other.local_window = 11;
  other.slot_selections = 12;
  other.segment_tokens = 512;
  other.segment_min_tokens = 13;
  other.step_parts = 3;
  other.micro_batches = 2;
  other.placement = Placement::host;
  const auto changed = list_options(other);
  const auto defaults = list_options(AttentionConfig{});
  ASSERT_EQ(changed.size(), 22u);
  for (std::size_t i = 0; i < changed.size(); ++i)
    EXPECT_NE(changed[i].value, defaults[i].value) << changed[i].name;
  AttentionConfig copy;
  for (const AttentionOption& option : changed) set_option(copy, option.name, option.value);
  expect_same(copy, other);
}

TEST(AttentionOptions, ThePaperPresetHoldsTheSettingsOfItsSection) {
  const AttentionConfig paper = preset("paper");
  EXPECT_EQ(paper.index, IndexKind::landmarks);
  EXPECT_EQ(paper.chunk_size, 8);
  EXPECT_EQ(paper.sparse_budget, 1024);
  EXPECT_EQ(paper.sparse_budget_per, 65536);
  EXPECT_EQ(paper.rank, 160);
  EXPECT_EQ(paper.outlier_chunks, 48);
  EXPECT_EQ(paper.exact_below, 0);
  EXPECT_EQ(paper.segment_tokens, 0);
  EXPECT_EQ(paper.rerank, 1.0);
}

TEST(AttentionOptions, TheQuestPresetHoldsThePublishedSettings) {
  const AttentionConfig quest = preset("quest");
  EXPECT_EQ(quest.method, Method::quest);
  EXPECT_EQ(quest.chunk_size, 16);
  EXPECT_EQ(quest.dense_layers, 2);
  EXPECT_EQ(quest.exact_below, 0);
  EXPECT_EQ(quest.rerank, 1.0);
  EXPECT_EQ(parse_attention("quest:sparse-budget=256").sparse_budget, 256);
}

TEST(AttentionOptions, ItemsAreAppliedOverTheirPreset) {
  const AttentionConfig config = parse_attention("paper:rank=64,factors=int8,placement=host");
  EXPECT_EQ(config.rank, 64);
  EXPECT_EQ(config.factors, StorageType::int8);
  EXPECT_EQ(config.placement, Placement::host);
  EXPECT_EQ(config.chunk_size, 8);
  EXPECT_EQ(value_of(parse_attention("full"), "method"), "full");
  expect_same(parse_attention("shadow"), AttentionConfig{});
}

TEST(AttentionOptions, AnUnknownNameIsRefusedWithTheNearest) {
  EXPECT_THAT(message_of("default:sparse-buget=64"), HasSubstr("sparse-budget"));
  EXPECT_THAT(message_of("papper"), HasSubstr("paper"));
  EXPECT_THAT(message_of("default:index=landmark"), HasSubstr("landmarks"));
}

TEST(AttentionOptions, AValueOutsideItsRangeIsRefusedWithNameValueAndRange) {
  EXPECT_THAT(message_of("default:chunk-size=17"), HasSubstr("chunk-size = \"17\""));
  EXPECT_THAT(message_of("default:chunk-size=17"), HasSubstr("from 1 to 16"));
  for (const char* bad : {"default:rank=-1",
                          "default:rank=99999999999999999999",
                          "default:rank=1.5",
                          "default:rank=",
                          "default:rank= 4",
                          "default:rerank=0.5",
                          "default:rerank=nan",
                          "default:sparse-budget=0",
                          "default:sparse-budget=0%",
                          "default:sparse-budget=101%",
                          "default:sparse-budget=%",
                          "default:sparse-budget-share=1.5",
                          "default:sketch-bits=3",
                          "default:slot-selections=0",
                          "default:local-window=x",
                          "default:factors=int4",
                          "default:rank",
                          "default:",
                          "default:rank=4,,",
                          "",
                          ":rank=4",
                          "default:=4"}) {
    EXPECT_NE(message_of(bad), "") << bad;
  }
}

}  // namespace
}  // namespace shadowkv
