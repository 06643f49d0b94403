// When decode steps are recorded: sequences that come and go are rows of device tables, so only a number of
// them that is new is. On a device that records nothing the same shapes are found for the second time.
#include <gtest/gtest.h>

#include "model/gpu_sequences.h"
#include "support/devices.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPrompt = 150, kMore = 400;

std::unique_ptr<Device> make_device(const std::string& name) {
  return name == "cpu" ? make_cpu_device() : make_cuda_device();
}

class Recordings : public ::testing::TestWithParam<std::string> {
 protected:
  static bool records() { return GetParam() != "cpu"; }

  // Both forms of values, and of sequences.
  static std::vector<AttentionConfig> methods() {
    AttentionConfig full;
    full.method = Method::full;
    AttentionConfig spilled = sparse_from_the_start(IndexKind::sketch, 48, StorageType::bfloat16);
    AttentionConfig on_host = spilled;
    on_host.placement = Placement::host;
    AttentionConfig exact = spilled;
    exact.exact_below = 2000;
    return {full, spilled, on_host, exact};
  }

  void arrive(Methods& methods, SeqId id) {
    std::vector<int32_t> prompt;
    for (int64_t i = 0; i < kPrompt + id % 7; ++i) prompt.push_back(made_up_token(id, i));
    (void)methods.prefill(id, prompt, kMore);
    ids_.push_back(id);
  }
  void depart(Methods& methods, std::size_t which) {
    methods.end(ids_[which]);
    ids_.erase(ids_.begin() + static_cast<std::ptrdiff_t>(which));
  }
  void steps(Methods& methods, int count) {
    const std::vector<int32_t> tokens(ids_.size(), 5);
    for (int i = 0; i < count; ++i) (void)methods.decode_greedy(ids_, tokens);
  }

  std::vector<SeqId> ids_;
};

TEST_P(Recordings, AreMadeOnceForEachNumberOfSequencesWhoeverComesAndGoes) {
  for (const AttentionConfig& config : methods()) {
    ids_.clear();
    FileModel model(kGpuModel, DType::bf16, make_device(GetParam()));
    Methods methods = model.open(config);
    const StepGraphs::Counts& counts = methods.transformer().recordings();
    for (SeqId id = 0; id < 5; ++id) arrive(methods, id);
    steps(methods, 4);
    EXPECT_EQ(counts.asked, 1) << "five";
    for (SeqId id = 5; id < 15; ++id) {  // another takes the place of each
      depart(methods, static_cast<std::size_t>(id % 5));
      arrive(methods, id);
      steps(methods, 3);
      ASSERT_EQ(counts.asked, 1) << "five, others than before: " << id;
    }
    depart(methods, 2);
    steps(methods, 3);
    EXPECT_EQ(counts.asked, 2) << "four";
    for (SeqId id = 15; id < 20; ++id) {  // numbers that were there before
      arrive(methods, id);
      steps(methods, 2);
      depart(methods, 0);
      steps(methods, 2);
      ASSERT_EQ(counts.asked, 2) << id;
    }
    EXPECT_EQ(counts.made, records() ? 2 : 0);
    EXPECT_GE(counts.replayed, records() ? 50 : 0);
  }
}

INSTANTIATE_TEST_SUITE_P(GpuAndCpu, Recordings, ::testing::ValuesIn(devices()),
                         [](const auto& one) { return one.param; });

}  // namespace
}  // namespace shadowkv::testing
