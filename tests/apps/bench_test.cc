#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "bench_needs.h"
#include "bench_options.h"
#include "bench_run.h"
#include "bench_stages.h"
#include "shadowkv/error.h"

namespace shadowkv::apps {
namespace {

constexpr int64_t kContext = 124'928;

// Llama-3-8B's sizes; tied, so that a step reads all of the 8.03e9 parameters and numbers below stay round.
ModelInfo llama() {
  ModelInfo model;
  model.layers = 32;
  model.hidden = 4096;
  model.heads = 32;
  model.kv_heads = 8;
  model.head_dim = 128;
  model.vocab_size = 128'256;
  model.parameters = 8'030'000'000;
  model.tied_embeddings = true;
  return model;
}

AttentionConfig paper() {
  AttentionConfig config = preset("paper");
  config.local_window = 64;
  return config;
}

// One bit a number, chunks of 8, 1,024 candidates for 512 tokens, everything else in 8 bits.
AttentionConfig sketch() {
  return parse_attention(
      "default:chunk-size=8,rank=160,sparse-budget=512,local-window=64,sketch-bits=1,values=int8");
}

// An H200: 4.65 TB/s, 51 GB/s gathered from 2 KiB on and 0.92 of that from 1 KiB on, 783 TFLOP/s.
Ceilings h200() {
  return {.device_read = 4.65e12,
          .link_copy = 55e9,
          .link_gather = {{512, 25.5e9}, {1024, 46.92e9}, {2048, 51e9}},
          .product = 783e12};
}

TEST(BenchNeeds, OfThePapersSettingsAreThoseWorkedOutByHand) {
  const SequenceNeeds needs = sequence_needs(llama(), paper(), kContext, 2);
  // Budget: 1,024 tokens for each begun 65,536. Always attended: 48 chunks of 8 and 64 tokens.
  const double layers_heads = 32.0 * 8, chosen = 2048, always = 48 * 8 + 64;
  EXPECT_DOUBLE_EQ(needs.index, layers_heads * kContext * 128 / 8 * 2);
  EXPECT_DOUBLE_EQ(needs.resident, layers_heads * always * 128 * 2 * 2);
  EXPECT_DOUBLE_EQ(needs.chosen, layers_heads * chosen * 128 * 2 * 2);
  EXPECT_DOUBLE_EQ(needs.bases, 32.0 * 160 * 8 * 128 * 2);
  EXPECT_DOUBLE_EQ(needs.factors, layers_heads * chosen * 160 * 2);
  EXPECT_DOUBLE_EQ(needs.values, layers_heads * chosen * 128 * 2);
  EXPECT_DOUBLE_EQ(needs.piece_bytes, 8 * 128 * 2);
  EXPECT_DOUBLE_EQ(needs.flops,
                   32.0 * ((chosen + always) * 32 * 128 * 4 + kContext / 8.0 * 32 * 128 * 2) + 2 * 8.03e9);
  EXPECT_DOUBLE_EQ(needs.rebuild_flops, 32 * chosen * 8 * 160 * 128 * 2);
}

TEST(BenchNeeds, OfASketchCountItsBitsScalesAndAllCandidates) {
  const SequenceNeeds needs = sequence_needs(llama(), sketch(), kContext, 2);
  const double layers_heads = 32.0 * 8;
  EXPECT_DOUBLE_EQ(needs.index, layers_heads * kContext * (128 / 8 + 2));
  EXPECT_DOUBLE_EQ(needs.factors, layers_heads * 1024 * 160);
  EXPECT_DOUBLE_EQ(needs.values, layers_heads * 512 * 128);
  EXPECT_DOUBLE_EQ(needs.bases, 32.0 * (kContext / 16384.0) * 160 * 8 * 128 * 2);
  EXPECT_DOUBLE_EQ(needs.flops, 32.0 * (512 + 64) * 32 * 128 * 4 + 2 * 8.03e9);
}

// Two numbers a page of 16 where a key has one; keys are fetched whole; two layers read everything.
TEST(BenchNeeds, OfQuestCountItsBoundsWholeKeysAndDenseLayers) {
  const SequenceNeeds needs = sequence_needs(llama(), preset("quest"), kContext, 2);
  const double layers_heads = 30.0 * 8, chosen = 1024;
  EXPECT_DOUBLE_EQ(needs.index, layers_heads * kContext / 16 * 2 * 128 * 2);
  EXPECT_DOUBLE_EQ(needs.resident, (layers_heads * 32 + 16.0 * kContext) * 128 * 2 * 2);
  EXPECT_DOUBLE_EQ(needs.chosen, layers_heads * chosen * 128 * 2 * 2);
  EXPECT_DOUBLE_EQ(needs.factors, layers_heads * chosen * 128 * 2);
  EXPECT_DOUBLE_EQ(needs.values, layers_heads * chosen * 128 * 2);
  EXPECT_DOUBLE_EQ(needs.bases + needs.rebuild_flops, 0);
  EXPECT_DOUBLE_EQ(needs.flops, (30.0 * (chosen + 32) + 2.0 * kContext) * 32 * 128 * 4 +
                                    30.0 * kContext / 16 * 32 * 128 * 4 + 2 * 8.03e9);
}

// Known answers: 13 sequences of the paper's settings with all values on the host and 0.6 of the choice in
// slots are bound by the link at 13.68 ms, 950 tokens a second; 44 of the sketch with the values where there
// is room by device memory at 10.68 ms, 4,124 tokens a second.
TEST(BenchNeeds, OfAWholeStepGiveTheKnownRooflines) {
  const auto bound = [](const AttentionConfig& config, int64_t batch, const StepShares& shares) {
    return roofline(step_needs(llama(), sequence_needs(llama(), config, kContext, 2), batch, shares, 2),
                    h200());
  };
  const Roofline host = bound(paper(), 13, {.hits = 0.6, .on_host = 1});
  EXPECT_EQ(host.bound(), "link");
  EXPECT_NEAR(host.link_s, 13 * 32.0 * 8 * 2048 * 128 * 2 * 0.4 / 51e9, 1e-9);
  EXPECT_NEAR(host.memory_s, 0.00744647, 1e-6);
  EXPECT_NEAR(host.product_s, 0.00049895, 1e-6);
  EXPECT_NEAR(13 / host.seconds(), 950, 1);
  const Roofline spill = bound(sketch(), 44, {.hits = 0.35, .on_host = 1 - 0.39051813});
  EXPECT_EQ(spill.bound(), "memory");
  EXPECT_NEAR(spill.link_s, 0.00623288, 1e-6);
  EXPECT_NEAR(spill.memory_s, 0.01067015, 1e-6);
  EXPECT_NEAR(44 / spill.seconds(), 4124, 1);
}

TEST(BenchNeeds, OfFullAttentionAreAllKeysAndValuesInTheirType) {
  AttentionConfig full = preset("full");
  EXPECT_DOUBLE_EQ(sequence_needs(llama(), full, kContext, 2).resident, 32.0 * 8 * 128 * 4 * kContext);
  full.values = StorageType::int8;
  const SequenceNeeds needs = sequence_needs(llama(), full, kContext, 2);
  EXPECT_DOUBLE_EQ(needs.resident, 32.0 * 8 * 128 * 2 * kContext);
  const StepNeeds step = step_needs(llama(), needs, 3, {}, 2);
  EXPECT_DOUBLE_EQ(step.memory_bytes, 2 * 8.03e9 + 3 * needs.resident);
  EXPECT_DOUBLE_EQ(step.link_bytes, 0);
}

TEST(BenchNeeds, OnlyMatricesThatAStepReadsWholeCount) {
  ModelInfo model = llama();
  const double tied = step_needs(model, {}, 1, {}, 2).memory_bytes;
  model.tied_embeddings = false;
  EXPECT_DOUBLE_EQ(tied - step_needs(model, {}, 1, {}, 2).memory_bytes, 2.0 * 128'256 * 4096);
}

TEST(BenchNeeds, AGatherIsHeldToTheRateOfItsPieces) {
  const Ceilings ceilings = h200();
  EXPECT_EQ(ceilings.gather_rate(4096), 51e9);
  EXPECT_EQ(ceilings.gather_rate(2048), 51e9);
  EXPECT_EQ(ceilings.gather_rate(2047), 46.92e9);
  EXPECT_EQ(ceilings.gather_rate(100), 25.5e9);
  EXPECT_EQ(Ceilings{}.gather_rate(100), 0);
}

TEST(BenchOptions, TheLabelOfAMethodSaysAllOfIt) {
  const auto labels = [](BenchArguments a) {
    std::vector<std::string> names;
    for (const NamedMethod& method : bench_methods(a)) names.push_back(method.label);
    return names;
  };
  using Names = std::vector<std::string>;
  BenchArguments a;
  EXPECT_EQ(labels(a), (Names{"full", "default"}));
  a.preset = "paper";
  EXPECT_EQ(labels(a), (Names{"full", "paper"}));
  a.storage = "int8";
  a.place = "host";
  a.methods.texts = {"full;default:rank=160,values=bfloat16"};
  EXPECT_EQ(labels(a), (Names{"full:values=int8",
                              "default:values=int8,factors=int8,placement=host,rank=160,values=bfloat16"}));
  EXPECT_EQ(bench_methods(a)[1].config.values, StorageType::bfloat16) << "what a method sets itself wins";
}

TEST(BenchOptions, ChoicesThatCannotBeForcedAreRefused) {
  const auto refuses = [](const std::string& method, int64_t context) {
    const std::vector<NamedMethod> methods = {{method, parse_attention(method), {}}};
    const std::vector<Cell> cells = {{context, 1}};
    try {
      check_forced(methods, {0.5}, cells);
    } catch (const InvalidInput&) {
      return true;
    }
    return false;
  };
  EXPECT_FALSE(refuses("full", 10));
  EXPECT_FALSE(refuses("paper", 4096));
  EXPECT_TRUE(refuses("paper", 2000)) << "two chunks for each of 128 to choose take 2,088 tokens";
  EXPECT_FALSE(refuses("default", 8192));
  EXPECT_TRUE(refuses("default", 4096)) << "slots that hold four selections need five chunks for each";
  EXPECT_TRUE(refuses("default:rerank=1.5", 8192)) << "candidates are no multiple of the choice";
}

TEST(BenchOptions, RatesAreForAllMethodsOrOneForEach) {
  BenchArguments a;
  EXPECT_EQ(forced_hits_of(a, 2), (ForcedHits{std::nullopt, std::nullopt}));
  a.hit_rates = "0.6";
  EXPECT_EQ(forced_hits_of(a, 2), (ForcedHits{0.6, 0.6}));
  a.hit_rates = "natural,0,1";
  EXPECT_EQ(forced_hits_of(a, 3), (ForcedHits{std::nullopt, 0.0, 1.0}));
  EXPECT_THROW((void)forced_hits_of(a, 2), InvalidInput);
  for (const char* wrong : {"", "0.5,", "1.01", "-0.1", "nan", "0.5x"}) {
    a.hit_rates = wrong;
    EXPECT_THROW((void)forced_hits_of(a, 1), InvalidInput) << wrong;
  }
}

TEST(BenchOptions, CellsAreAllContextsWithAllBatches) {
  BenchArguments a;
  a.contexts = "64,128";
  a.batches = "auto,3";
  std::vector<std::pair<int64_t, int64_t>> found;
  for (const Cell& cell : cells_of(a, true)) found.emplace_back(cell.context, cell.batch);
  EXPECT_EQ(found, (std::vector<std::pair<int64_t, int64_t>>{{64, 0}, {64, 3}, {128, 0}, {128, 3}}));
  EXPECT_THROW((void)cells_of(a, false), InvalidInput);
}

TEST(StepTimes, QuantilesLieBetweenTheirNeighbours) {
  const StepTimes times({4, 1, 3, 2});
  EXPECT_DOUBLE_EQ(times.at(0), 1);
  EXPECT_DOUBLE_EQ(times.median(), 2.5);
  EXPECT_DOUBLE_EQ(times.at(1), 4);
  EXPECT_DOUBLE_EQ(StepTimes({7}).median(), 7);
}

class MadeUp : public ::testing::Test {
 protected:
  static std::unique_ptr<Engine> engine() {
    return Engine::load(
        {.model = std::string(SHADOWKV_TEST_DATA) + "/golden/llama_gqa/f32.gguf", .threads = 2});
  }
  static std::vector<NamedMethod> methods() {
    return methods_of({{"full;full:values=int8;default;default:sparse-budget=64,rerank=1;paper"}, ""});
  }
};

TEST_F(MadeUp, DecodingIsCheckedAgainstExactPrefillUnderEveryMethod) {
  const auto loaded = engine();
  for (const NamedMethod& method : methods()) {
    const DecodeCheck check = check_decode(*loaded, method);
    EXPECT_GT(check.error, 0) << method.label;
    EXPECT_EQ(check.limit, method.label == "full" || method.label == "paper" ? 0.05 : 0.10);
    EXPECT_LT(check.error, check.limit / 2) << method.label << ": the limit leaves room";
    EXPECT_GT(check.tokens, 40);
  }
}

TEST_F(MadeUp, EveryOpOfAStepHasItsStageAndAllOfThemTogetherAreTheStep) {
  const auto loaded = engine();
  const std::set<std::string> without_stage = {"sample_tokens"};
  for (const NamedMethod& method : methods()) {
    MadeUpBatch batch(*loaded, {.config = &method.config,
                                .cell = {2000, 3},
                                .growth = MadeUpBatch::kOpSteps + 1,
                                .forced_hits = std::nullopt});
    batch.checked_step();
    const std::vector<OpTime> times = batch.op_times();
    int64_t matrices = 0;
    double sum = 0, staged = 0;
    for (const OpTime& time : times) {
      EXPECT_TRUE(stage_of(time.op) != "other" || without_stage.contains(time.op)) << time.op;
      EXPECT_GT(time.runs, 0);
      if (time.op == "matmul" || time.op == "matmul_group") matrices += time.runs;
      sum += time.seconds;
    }
    EXPECT_EQ(matrices, 2 * 4 + 1) << "of two layers, q k v and gate up together, and the logits";
    for (const double seconds : stage_seconds(times)) staged += seconds;
    EXPECT_NEAR(staged, sum, 1e-12);
  }
}

}  // namespace
}  // namespace shadowkv::apps
