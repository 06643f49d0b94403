// A small pool of threads for the CPU kernels. Work is cut into ranges by the caller's grain, never by the
// number of threads, so that results do not depend on how many there are. Threads watch for work for some
// tens of microseconds after each call before they sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace shadowkv {

class ThreadPool {
 public:
  // threads: workers in all, the caller's thread included; 0 takes one per core this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(i) once for each i in [0, count), in any order, and returns when all are done. The first
  // exception is rethrown here after the others finished. Not reentrant: body must not call it.
  void for_each(int64_t count, const std::function<void(int64_t)>& body);

 private:
  struct Job;
  void stop() noexcept;
  void work();
  static void run(Job& job);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<Job> job_;             // guarded by mutex_; the job that workers should join
  int sleepers_ = 0;                     // guarded by mutex_; workers that wait for wake_
  bool stop_ = false;                    // guarded by mutex_
  std::atomic<uint64_t> generation_{0};  // changed under mutex_; counts jobs so that a worker joins each once
  std::vector<std::jthread> workers_;
};

}  // namespace shadowkv
