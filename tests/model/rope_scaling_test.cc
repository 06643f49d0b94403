// The rules of RoPE that files name. Expected numbers are those of their formulas, computed apart.
#include "model/rope_scaling.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "model/config_files.h"
#include "support/test_data.h"

namespace shadowkv::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(RopeScaling, RopeMayStandInAnObjectOfItsOwn) {
  const std::string newer =
      R"(, "rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0})";
  EXPECT_EQ(from_hf(small_hf_config(newer)).rope.theta, 77.0);
  const std::string older = R"(, "rope_theta": 88.0, "rope_scaling": {"type": "default"})";
  EXPECT_EQ(from_hf(small_hf_config(older)).rope.theta, 88.0);
  EXPECT_EQ(from_hf(small_hf_config(R"(, "rope_theta": null)")).rope.theta, 10000.0);
}

TEST(RopeScaling, RopeMayBeScaled) {
  const std::string linear = R"(, "rope_scaling": {"type": "linear", "factor": 2.5})";
  EXPECT_THAT(from_hf(small_hf_config(linear)).rope.divisors, ElementsAre(2.5f, 2.5f, 2.5f, 2.5f));
  // With base 5,000 the four pairs turn 159, 18.9, 2.25 and 0.27 times over 1,000 tokens.
  const std::string llama3 =
      R"(, "rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5000,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 1000})";
  const std::vector<float> divisors = from_hf(small_hf_config(llama3)).rope.divisors;
  ASSERT_EQ(divisors.size(), 4u);
  EXPECT_EQ(divisors[0], 1.0f);
  EXPECT_EQ(divisors[1], 1.0f);
  EXPECT_NEAR(divisors[2], 1 / (0.58305 / 8 + 0.41695), 1e-3);
  EXPECT_EQ(divisors[3], 8.0f);
  EXPECT_THAT(from_gguf(small_gguf().real("llama.rope.scale_linear", 4.0f)).rope.divisors,
              ElementsAre(4, 4, 4, 4));
  EXPECT_THAT(
      from_gguf(small_gguf().text("llama.rope.scaling.type", "linear").real("llama.rope.scaling.factor", 2))
          .rope.divisors,
      ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(
      from_gguf(small_gguf().text("llama.rope.scaling.type", "none").real("llama.rope.scaling.factor", 2))
          .rope.divisors,
      IsEmpty());
  EXPECT_THAT(from_gguf(small_gguf().floats("rope_freqs.weight", {4}, {1, 2, 3, 4})).rope.divisors,
              ElementsAre(1, 2, 3, 4));
}

TEST(RopeScaling, YarnMultipliesTurnedNumbersToo) {
  const auto yarn = [](const std::string& more) {
    return from_hf(small_hf_config(R"(, "rope_scaling": {"rope_type": "yarn", "factor": 8.0,
      "original_max_position_embeddings": 1000)" +
                                   more + "}"))
        .rope;
  };
  // Of four pairs at base 5,000: those up to floor(0.76) are left alone, those from ceil(2.38) on divided.
  const RopeConfig rope = yarn("");
  EXPECT_THAT(rope.divisors, ElementsAre(1, FloatNear(1 / (1.0f / 24 + 2.0f / 3), 1e-5f),
                                         FloatNear(1 / (2.0f / 24 + 1.0f / 3), 1e-5f), 8));
  EXPECT_NEAR(rope.magnitude, 1.2079441, 1e-6);
  EXPECT_EQ(yarn(R"(, "attention_factor": 1.5)").magnitude, 1.5);
  EXPECT_NEAR(yarn(R"(, "mscale": 2, "mscale_all_dim": 1)").magnitude, 1.4158883 / 1.2079441, 1e-6);
  EXPECT_EQ(yarn(R"(, "mscale": 1, "mscale_all_dim": 1)").magnitude, 1.0);
  EXPECT_NE(yarn(R"(, "truncate": false)").divisors, rope.divisors);
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": {"rope_type": "yarn", "factor": 8.0,
      "original_max_position_embeddings": 1000, "beta_fast": 1, "beta_slow": 2})"),
              HasSubstr("the first larger"));
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": {"rope_type": "yarn", "factor": 8.0,
      "original_max_position_embeddings": 1000, "attention_factor": -2})"),
              HasSubstr("attention_factor is -2"));
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": {"rope_type": "yarn", "factor": 8.0,
      "original_max_position_embeddings": 1000, "attention_factor": 0})"),
              HasSubstr("attention_factor is 0"));
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": {"rope_type": "yarn", "factor": 8.0,
      "original_max_position_embeddings": 0})"),
              HasSubstr("original context is 0"));
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": {"rope_type": "yarn", "factor": 8.0,
      "original_max_position_embeddings": 9223372036854775807})"),
              HasSubstr("original context is 9223372036854775807"));
}

TEST(RopeScaling, LongRopesDivisorsAreThoseOfShortAndLongSequences) {
  const auto longrope = [](const std::string& more, const std::string& top = "") {
    return small_hf_config(R"(, "rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 2],
      "long_factor": [1, 2, 3, 4])" +
                           more + "}" + top);
  };
  const RopeConfig beyond = from_hf(longrope(R"(, "original_max_position_embeddings": 32)")).rope;
  EXPECT_THAT(beyond.divisors, ElementsAre(1, 2, 3, 4));
  ASSERT_EQ(beyond.tables(), 2);
  EXPECT_THAT(beyond.shorter[0].divisors, ElementsAre(1, 1, 1, 2));
  EXPECT_EQ(beyond.table_for(32), 1);
  EXPECT_EQ(beyond.table_for(33), 0);
  EXPECT_NEAR(beyond.magnitude, 1.1832160, 1e-6);  // sqrt(1 + ln 4 / ln 32)
  const RopeConfig within = from_hf(longrope("", R"(, "original_max_position_embeddings": 128)")).rope;
  EXPECT_THAT(within.divisors, ElementsAre(1, 1, 1, 2));
  EXPECT_EQ(within.tables(), 1);
  EXPECT_EQ(within.magnitude, 1.0);
  const auto refusal = [&](const std::string& more) {
    return refusal_of([&] { (void)from_hf(longrope(more)); });
  };
  EXPECT_THAT(refusal(""), HasSubstr("has no \"original_max_position_embeddings\""));
  EXPECT_THAT(refusal(R"(, "original_max_position_embeddings": 32, "long_factor": [1, 2])"),
              HasSubstr("4 pairs"));
  EXPECT_THAT(refusal(R"(, "original_max_position_embeddings": 32, "long_factor": 2)"), HasSubstr("a list"));
  EXPECT_THAT(refusal(R"(, "original_max_position_embeddings": 1)"), HasSubstr("original context is 1"));
  const auto gguf = [](const std::vector<float>& longs) {
    return small_gguf()
        .integer("llama.rope.scaling.original_context_length", 32)
        .floats("rope_factors_long.weight", {longs.size()}, longs);
  };
  EXPECT_THAT(gguf_refusal(gguf({1, 2, 3, 4})), HasSubstr("these two together"));
  EXPECT_THAT(gguf_refusal(gguf({1, 2}).floats("rope_factors_short.weight", {4}, {1, 1, 1, 1})),
              HasSubstr("4 pairs"));
}

// Frequencies that a table of the rope should have by the formula of another base.
std::vector<double> by_another_base(const RopeConfig& rope, double stretched) {
  const auto turned = static_cast<double>(rope.rotary_dim);
  const double theta = rope.theta * std::pow(stretched, turned / (turned - 2));
  std::vector<double> frequencies;
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i)
    frequencies.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / turned));
  return frequencies;
}

// From 128 tokens on, by 2.5 to 320.
TEST(RopeScaling, DynamicRopeFollowsALadderOfLengths) {
  const ModelConfig config =
      from_hf(small_hf_config(R"(, "rope_parameters": {"rope_type": "dynamic", "factor": 2.5})"));
  EXPECT_EQ(config.context, 320);
  const RopeConfig& rope = config.rope;
  ASSERT_EQ(rope.tables(), 6);
  EXPECT_EQ(rope.magnitude, 1.0);
  EXPECT_THAT(rope.shorter[0].divisors, ElementsAre(1, 1, 1, 1)) << "within the original context";
  const std::vector<float> all = frequency_tables(rope);
  const std::vector<int64_t> rungs = {128, 160, 192, 224, 256, 320};
  for (std::size_t i = 0; i < rungs.size(); ++i) {
    const int64_t table = rope.table_for(rungs[i]), least = i == 0 ? 1 : rungs[i - 1] + 1;
    EXPECT_EQ(table, rungs[i] == 320 ? 0 : static_cast<int64_t>(i) + 1);
    EXPECT_EQ(rope.table_for(least), table);
    EXPECT_EQ(rope.reach(table), table == 0 ? INT64_MAX : rungs[i]);
    const std::vector<double> expected =
        by_another_base(rope, 2.5 * static_cast<double>(rungs[i]) / 128 - 1.5);
    for (std::size_t pair = 0; pair < 4; ++pair) {
      const double found = double{all[static_cast<std::size_t>(table) * 4 + pair]};
      EXPECT_NEAR(found, expected[pair], 2e-7 * expected[pair]) << rungs[i] << " tokens, pair " << pair;
    }
  }
}

TEST(RopeScaling, TheLadderOfDynamicRopeIsFinite) {
  RopeConfig rope;
  rope.rotary_dim = 8;
  scale_by_dynamic(rope, {.factor = 1e6, .original_context = 1, .context = kMostContext}, "here");
  EXPECT_LE(rope.tables(), 4 * 31 + 1);
  for (std::size_t i = 1; i < rope.shorter.size(); ++i)
    EXPECT_LT(rope.shorter[i - 1].most_tokens, rope.shorter[i].most_tokens);
  scale_by_dynamic(rope, {.factor = 1, .original_context = 100, .context = 100}, "here");
  EXPECT_EQ(rope.tables(), 1);
  EXPECT_THAT(rope.divisors, ElementsAre(1, 1, 1, 1));
  RopeConfig one_pair;
  one_pair.rotary_dim = 2;
  EXPECT_THROW(scale_by_dynamic(one_pair, {.factor = 2, .original_context = 8, .context = 16}, "here"),
               InvalidInput);
}

TEST(RopeScaling, DynamicRopeThatMakesNoSenseIsRefused) {
  const auto refusal = [](const std::string& more, const std::string& top = "") {
    return hf_refusal(R"(, "rope_scaling": {"type": "dynamic")" + more + "}" + top);
  };
  EXPECT_THAT(refusal(""), HasSubstr("has no \"factor\""));
  for (const char* factor : {"0.5", "-3", "1e9", "\"2\""})
    EXPECT_THAT(refusal(fmt::format(R"(, "factor": {})", factor)), HasSubstr("factor")) << factor;
  const char* original = R"(, "original_max_position_embeddings": 64)";
  EXPECT_THAT(refusal(std::string(R"(, "factor": 2)") + original), HasSubstr("is 64"));
  EXPECT_THAT(refusal(R"(, "factor": 2)", original), HasSubstr("is 64"));
  EXPECT_EQ(refusal(R"(, "factor": 2, "original_max_position_embeddings": 128)"), "");
  EXPECT_THAT(gguf_refusal(small_gguf().text("llama.rope.scaling.type", "dynamic")),
              HasSubstr("\"dynamic\""));
}

TEST(RopeScaling, YarnReachesAsFarAsItsFactorSays) {
  const auto yarn = [](const std::string& more) {
    return small_hf_config(R"(, "rope_scaling": {"rope_type": "yarn")" + more + "}");
  };
  EXPECT_EQ(from_hf(yarn(R"(, "factor": 4, "original_max_position_embeddings": 100)")).context, 400);
  EXPECT_EQ(from_hf(yarn(R"(, "factor": 1.2, "original_max_position_embeddings": 100)")).context, 128);
  const ModelConfig told = from_hf(yarn(R"(, "factor": 4, "original_max_position_embeddings": 32)"));
  const ModelConfig found = from_hf(yarn(R"(, "factor": null, "original_max_position_embeddings": 32)"));
  EXPECT_EQ(found.rope.divisors, told.rope.divisors);
  EXPECT_EQ(found.rope.magnitude, told.rope.magnitude);
  const auto gguf = [] {
    return small_gguf().text("llama.rope.scaling.type", "yarn").real("llama.rope.scaling.factor", 4);
  };
  EXPECT_EQ(from_gguf(gguf().integer("llama.rope.scaling.original_context_length", 100)).context, 400);
  EXPECT_EQ(from_gguf(gguf()).context, 4 * 128);
  EXPECT_EQ(gguf_refusal(gguf().real("llama.rope.scaling.yarn_ext_factor", 1)), "");
  EXPECT_THAT(gguf_refusal(gguf().real("llama.rope.scaling.yarn_ext_factor", 0.5f)),
              HasSubstr("yarn_ext_factor is 0.5"));
  EXPECT_THAT(gguf_refusal(gguf().integer("llama.attention.sliding_window", 128)),
              HasSubstr("sliding_window is 128 and the context 512"));
}

// As transformers finds it: at the top level, else beside the rule, else the context.
TEST(RopeScaling, TheOriginalContextMayStandInThreePlaces) {
  const auto llama3 = [](const std::string& more, const std::string& top = "") {
    return from_hf(small_hf_config(R"(, "rope_parameters": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0)" +
                                   more + "}" + top))
        .rope.divisors;
  };
  const char *here = R"(, "original_max_position_embeddings": 32)",
             *context = R"(, "original_max_position_embeddings": 128)";
  EXPECT_EQ(llama3("", here), llama3(here));
  EXPECT_EQ(llama3(context, here), llama3(here));
  EXPECT_EQ(llama3(""), llama3(context));
  EXPECT_NE(llama3(""), llama3(here));
}

TEST(RopeScaling, RopeIsReadFromOneObjectAndForAllLayers) {
  const std::string linear = R"({"rope_type": "linear", "factor": 2.0})";
  const auto both = [&](const std::string& newer) {
    return R"(, "rope_scaling": )" + linear + R"(, "rope_parameters": )" + newer;
  };
  for (const std::string& newer : {linear, std::string("{}"), std::string("null")}) {
    EXPECT_THAT(from_hf(small_hf_config(both(newer))).rope.divisors, ElementsAre(2, 2, 2, 2)) << newer;
  }
  EXPECT_THAT(hf_refusal(both(R"({"rope_type": "default", "rope_theta": 77.0})")),
              HasSubstr("rope_scaling and rope_parameters are both set"));
  EXPECT_THAT(hf_refusal(R"(, "rope_parameters": {"full_attention": {"rope_type": "default"}})"),
              HasSubstr("\"full_attention\" is an object"));
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": {"type": "default", "partial_rotary_factor": 0.5})"),
              HasSubstr("rope_scaling: partial_rotary_factor is 0.5"));
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": 2)"), HasSubstr("rope_scaling is not an object"));
}

TEST(RopeScaling, ScalingsOfRopeThatMakeNoSenseAreRefused) {
  const auto divided = [](const std::vector<uint64_t>& shape, const std::vector<float>& numbers) {
    return gguf_refusal(small_gguf().floats("rope_freqs.weight", {shape.begin(), shape.end()}, numbers));
  };
  EXPECT_THAT(divided({3}, {1, 1, 1}), HasSubstr("3 pairs"));
  EXPECT_THAT(divided({2, 2}, {1, 1, 1, 1}), HasSubstr("not a row"));
  EXPECT_THAT(divided({4}, {1, 1, 0, 1}), HasSubstr("by 0"));
  EXPECT_THAT(divided({4}, {1, 1, std::numeric_limits<float>::quiet_NaN(), 1}), HasSubstr("by nan"));
  EXPECT_THAT(
      gguf_refusal(
          small_gguf().real("llama.rope.scale_linear", 4.0f).floats("rope_freqs.weight", {4}, {1, 1, 1, 1})),
      HasSubstr("one of them"));
  EXPECT_THAT(
      gguf_refusal(
          small_gguf({{"llama.rope.dimension_count", 1 << 30}}).real("llama.rope.scale_linear", 4.0f)),
      HasSubstr("turns 1073741824"));
  for (const char* factor : {"0.5", "-1", "1e9", "\"2\""}) {
    EXPECT_THAT(hf_refusal(fmt::format(R"(, "rope_scaling": {{"type": "linear", "factor": {}}})", factor)),
                HasSubstr("factor"))
        << factor;
  }
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": {"rope_type": "linear"})"), HasSubstr("has no \"factor\""));
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": {"rope_type": "llama3", "factor": 8.0})"),
              HasSubstr("has no \"low_freq_factor\""));
  EXPECT_THAT(hf_refusal(R"(, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0,
      "high_freq_factor": 1.0, "original_max_position_embeddings": 64})"),
              HasSubstr("the second larger"));
}

// Powers of float32 in transformers, of doubles here.
constexpr double kPowers = 2e-6;

void expect_frequencies(const RopeConfig& rope, const nlohmann::json& length) {
  const auto expected = length.at("frequencies").get<std::vector<double>>();
  const std::vector<float> tables = frequency_tables(rope);
  const auto pairs = static_cast<std::size_t>(rope.rotary_dim / 2);
  const auto first = static_cast<std::size_t>(rope.table_for(length.at("tokens"))) * pairs;
  ASSERT_EQ(pairs, expected.size());
  for (std::size_t i = 0; i < pairs; ++i) {
    EXPECT_NEAR(double{tables[first + i]}, expected[i], kPowers * expected[i]) << "pair " << i;
  }
  EXPECT_NEAR(rope.magnitude, length.at("magnitude").get<double>(), 1e-9);
}

TEST(RopeScaling, FrequenciesAreThoseOfTransformers) {
  std::ifstream file(test_data() / "golden" / "rope_rules.json");
  const auto rules = nlohmann::json::parse(file);
  ASSERT_EQ(rules.size(), 30u);
  for (const auto& rule : rules) {
    const ModelConfig config = from_hf(rule.at("config").dump());
    for (const auto& length : rule.at("lengths")) {
      SCOPED_TRACE(fmt::format("{} tokens of {}", length.at("tokens").dump(), rule.at("config").dump()));
      EXPECT_LE(length.at("tokens").get<int64_t>(), config.context);
      expect_frequencies(config.rope, length);
    }
  }
}

}  // namespace
}  // namespace shadowkv::testing
