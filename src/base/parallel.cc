#include "base/parallel.h"

#include <algorithm>
#include <chrono>
#include <exception>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace shadowkv {
namespace {

// How long a thread looks for news before it sleeps: longer than the gaps between the ops of a decode step,
// short enough that an idle pool costs nothing.
constexpr std::chrono::microseconds kPatience{200};

void pause_briefly() {
#if defined(__SSE2__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Looks at `news` for kPatience; true as soon as it is.
template <typename News>
bool spin_until(const News& news) {
  constexpr int kLooks = 16;  // between looks at the clock
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int i = 0; i < kLooks; ++i) {
      if (news()) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

// Every index runs and the first exception comes afterwards, as with several threads.
void run_alone(int64_t count, const std::function<void(int64_t)>& body) {
  std::exception_ptr error;
  for (int64_t i = 0; i < count; ++i) {
    try {
      body(i);
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace

// One call of for_each. Workers hold it by shared_ptr, so a late worker finds an exhausted job, not a dead
// one.
struct ThreadPool::Job {
  const std::function<void(int64_t)>* body = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> done{0};
  std::mutex mutex;
  std::condition_variable finished;
  std::exception_ptr error;  // guarded by mutex

  [[nodiscard]] bool is_done() const { return done.load() == count; }
};

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  } catch (...) {
    stop();  // those that began are waited for when workers_ goes
    throw;
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    ++generation_;
  }
  wake_.notify_all();
}

void ThreadPool::run(Job& job) {
  for (int64_t i = job.next.fetch_add(1); i < job.count; i = job.next.fetch_add(1)) {
    try {
      (*job.body)(i);
    } catch (...) {
      const std::lock_guard lock(job.mutex);
      if (!job.error) job.error = std::current_exception();
    }
    if (job.done.fetch_add(1) + 1 == job.count) {
      const std::lock_guard lock(job.mutex);
      job.finished.notify_all();
    }
  }
}

void ThreadPool::work() {
  uint64_t seen = 0;
  while (true) {
    const auto news = [&] { return generation_.load() != seen; };
    const bool awake = spin_until(news);
    std::shared_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      if (!awake && !news()) {
        ++sleepers_;
        wake_.wait(lock, news);
        --sleepers_;
      }
      if (stop_) return;
      seen = generation_.load();
      job = job_;
    }
    if (job) run(*job);
  }
}

void ThreadPool::for_each(int64_t count, const std::function<void(int64_t)>& body) {
  if (count <= 0) return;
  if (count == 1) return body(0);
  if (workers_.empty()) return run_alone(count, body);
  auto job = std::make_shared<Job>();
  job->body = &body;
  job->count = count;
  bool someone_sleeps = false;
  {
    const std::lock_guard lock(mutex_);
    job_ = job;
    ++generation_;
    someone_sleeps = sleepers_ > 0;
  }
  if (someone_sleeps) wake_.notify_all();
  run(*job);
  const bool done = spin_until([&] { return job->is_done(); });
  std::unique_lock lock(job->mutex);
  if (!done) job->finished.wait(lock, [&] { return job->is_done(); });
  if (job->error) std::rethrow_exception(job->error);
}

}  // namespace shadowkv
