// Seconds of every op, for benchmarks. Device::start_op_clock() makes one; the dispatch of kernels.h feeds
// it.
#pragma once

#include <cstdint>
#include <vector>

namespace shadowkv {

class Queue;

// One run of one op.
struct OpRun {
  const char* op = "";  // its name in kernels.h
  int64_t rows = 0;     // of its weight matrix [rows, columns]; 0 where it has none
  int64_t columns = 0;
  double seconds = 0;  // from the end of the op before it: a wait or a copy between the two counts here
};

class OpClock {
 public:
  OpClock() = default;
  virtual ~OpClock() = default;
  OpClock(const OpClock&) = delete;
  OpClock& operator=(const OpClock&) = delete;

  void before(Queue& queue) {
    if (read_) runs_.clear();
    read_ = false;
    if (runs_.empty()) mark(queue, 0);
  }
  // run.seconds is filled in by read().
  void after(Queue& queue, const OpRun& run) {
    runs_.push_back(run);
    mark(queue, static_cast<int64_t>(runs_.size()));
  }

  // Waits for the queues and returns, in order, what ran since the last reading; where only recordings were
  // replayed since then, what the latest recording holds, with the times of its latest replay.
  [[nodiscard]] std::vector<OpRun> read() {
    wait();
    for (std::size_t i = 0; i < runs_.size(); ++i) runs_[i].seconds = between(static_cast<int64_t>(i));
    read_ = true;
    return runs_;
  }

 protected:
  // Time point `index` is when all that was given to the queue is done.
  virtual void mark(Queue& queue, int64_t index) = 0;
  virtual void wait() = 0;
  [[nodiscard]] virtual double between(int64_t index) const = 0;  // seconds from point index to index + 1

 private:
  std::vector<OpRun> runs_;
  bool read_ = false;  // runs_ was handed out; the next op starts anew
};

}  // namespace shadowkv
