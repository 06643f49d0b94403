// Answers far longer than their prompts: what is held grows as the footprint says, token by token, and what
// the prompt's bases lose of the keys that are generated is measured on the way.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/device.h"
#include "engine/engines.h"
#include "formats/temporary_file.h"
#include "support/devices.h"
#include "support/sanitizer.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPrompt = 600;
constexpr int64_t kSteps = kIsSanitized ? 2'048 : 32'768;
constexpr int64_t kPiece = kSteps / 8;  // of the answer, between two looks at it

class LongOutput : public ::testing::TestWithParam<std::string> {
 protected:
  static bool on_gpu() { return GetParam() != "cpu"; }
  static std::unique_ptr<Engine> load(EngineOptions options) {
    options.device = GetParam();
    if (on_gpu()) options.dtype = "bfloat16";
    return Engine::load(options);
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, LongOutput, ::testing::ValuesIn(devices()),
                         [](const auto& one) { return one.param; });

// The small golden checkpoint with a longer context.
EngineOptions long_engine(const TemporaryFolder& folder) {
  const std::filesystem::path golden = std::string(SHADOWKV_TEST_DATA) + "/golden/llama_gqa/hf";
  std::filesystem::copy(golden, folder.path() / "model");
  std::ifstream file(golden / "config.json");
  nlohmann::json config = nlohmann::json::parse(file);
  config["max_position_embeddings"] = 65'536;
  folder.write("model/config.json", config.dump());
  EngineOptions options = small_engine_options();
  options.model = folder.path() / "model";
  return options;
}

// One basis for all, of a quarter of the key's width.
AttentionConfig one_basis() {
  AttentionConfig config = small_shadow();
  config.segment_tokens = 0;
  config.rank = 8;
  config.sparse_budget = 64;
  return config;
}

struct Loss {
  double energy = 0, error = 0;
  void add(const LayerObservation& seen) {
    energy += seen.key_energy;
    error += seen.key_error;
  }
  [[nodiscard]] double share() const { return error / energy; }
};

TEST_P(LongOutput, GrowsAsTheFootprintSaysAndItsKeysAreMeasured) {
  const TemporaryFolder folder;
  const auto engine = load(long_engine(folder));
  const AttentionConfig config = one_basis();
  const auto session = engine->open({&config, 1});
  const SequenceId id = session->add(kPrompt + kSteps + 1);
  const std::vector<int32_t> prompt = random_ids(kPrompt);
  Sampler sampler = engine->make_sampler({.temperature = 1.0, .seed = 5}, prompt, true);
  Sampler* const one = &sampler;
  Loss piece;
  session->observe(0, [&](const LayerObservation& seen) { piece.add(seen); });
  SequenceToken next{id, session->prefill_sampled(id, prompt, sampler)};

  const auto promised = [&](int64_t tokens) {  // where there is room on the device for values too
    const SequenceFootprint footprint = engine->footprint(config, tokens);
    return footprint.device + footprint.either;
  };
  std::vector<double> shares;
  int64_t before = session->statistics(0).held_bytes[0];
  for (int64_t step = 1; step <= kSteps; ++step) {
    next.token = session->decode_sampled(0, {&next, 1}, {&one, 1})[0];
    if (step % kPiece != 0) continue;
    const int64_t tokens = kPrompt + step, held = session->statistics(0).held_bytes[0];
    EXPECT_EQ(held - before, promised(tokens) - promised(tokens - kPiece)) << "up to " << tokens;
    EXPECT_LE(held, promised(kPrompt + kSteps + 1));
    std::printf("%ld tokens generated: %ld bytes, %.3f %% of the energy of the last %ld keys lost\n", step,
                held, 100 * piece.share(), kPiece);
    shares.push_back(piece.share());
    piece = {};
    before = held;
  }
  ASSERT_EQ(std::ssize(shares), 8);
  for (const double share : shares) {
    EXPECT_GT(share, 0.01) << "a quarter of the width does not hold all";
    EXPECT_LT(share, 1.0) << "nor nothing";
    EXPECT_LT(share, 1.5 * shares.front()) << "what comes late is held like what comes early";
  }
}

// Of the same tokens.
Loss loss_of(Engine& engine, const AttentionConfig& config) {
  const auto session = engine.open({&config, 1});
  const SequenceId id = session->add(400);
  (void)session->prefill(id, random_ids(300));
  Loss loss;
  session->observe(0, [&](const LayerObservation& seen) {
    if (seen.layer == 0) loss.add(seen);  // whose keys are those of the tokens, whatever is attended
  });
  for (const int32_t token : random_ids(40, 3)) {
    const SequenceToken next{id, token};
    (void)session->decode(0, {&next, 1});
  }
  return loss;
}

TEST_P(LongOutput, OfTheKeysLessIsLostTheMoreNumbersTheyHaveAndNothingWhereTheyAreWhole) {
  const auto engine = load(small_engine_options());
  AttentionConfig config = one_basis();
  if (!on_gpu()) config.factors = StorageType::float32;
  double last = 1.0, energy = 0;
  for (const int64_t rank : {2, 8, 16, 24, 31}) {
    config.rank = rank;
    const Loss loss = loss_of(*engine, config);
    EXPECT_LT(loss.share(), last) << "rank " << rank;
    last = loss.share();
    if (energy > 0) {
      EXPECT_NEAR(loss.energy, energy, 1e-4 * energy) << "keys are the same";
    }
    energy = loss.energy;
  }
  config.rank = 32;  // the whole width
  // On a GPU keys and factors are rounded to bfloat16 when they are read back.
  EXPECT_LT(loss_of(*engine, config).share(), on_gpu() ? 1e-3 : 1e-9);
  config.factors = StorageType::int8;
  const double rounded = loss_of(*engine, config).share();
  EXPECT_GT(rounded, 1e-7);
  EXPECT_LT(rounded, on_gpu() ? 2e-3 : 1e-3) << "half a code of 127 a number, at most";
  EXPECT_EQ(loss_of(*engine, full_attention()).energy, 0);
}

}  // namespace
}  // namespace shadowkv::testing
