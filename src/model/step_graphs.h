// Recordings of decode steps, a few of them, so that batches that come in turns do not record again.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "base/device.h"

namespace shadowkv {

class Attention;

// What a step does with its logits besides drawing tokens from them.
struct LogitOps {
  bool changes = false;    // change_logits
  bool keeps_raw = false;  // of some row, likewise
  bool ranks = false;      // rank_tokens
  bool operator==(const LogitOps&) const = default;
};

// What decides whether a recorded step can serve again.
struct StepShape {
  std::vector<int64_t> attention;     // Attention::step_shape()
  int64_t address_epoch = -1;         // Device::address_epoch()
  const Attention* method = nullptr;  // whose step it is
  LogitOps logit_ops = {};            // what it holds besides drawing
  bool operator==(const StepShape&) const = default;
};

// A shape is recorded the second time it comes, when nothing is left to allocate.
class StepGraphs {
 public:
  // A recording takes some of the GPU's memory: hundreds of MiB where a step has many streams.
  static constexpr std::size_t kMost = 4;

  // A recorded step of that shape, made by `record` where it comes for the second time; null where there is
  // none, as always where `record` returns null. What is recorded for other addresses goes: they are never
  // seen again. Where the device has no room for one more, all others go.
  [[nodiscard]] Graph* find(const StepShape& shape, const std::function<std::unique_ptr<Graph>()>& record);
  // A step of that shape has run without a recording, and allocated what it needs.
  void ran(const StepShape& shape);

  // So far. Shapes are found for the second time on devices that record nothing, too.
  struct Counts {
    int64_t asked = 0;     // recordings that `record` was asked for
    int64_t made = 0;      // of them made
    int64_t replayed = 0;  // steps that found one
  };
  [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
  struct Entry {
    StepShape shape;
    std::unique_ptr<Graph> graph;
    bool tried = false;  // to record it: seldom in vain
  };
  [[nodiscard]] bool drop_recordings();
  [[nodiscard]] std::unique_ptr<Graph> make(const std::function<std::unique_ptr<Graph>()>& record);

  std::list<Entry> entries_;  // the latest first
  Counts counts_;
};

}  // namespace shadowkv
