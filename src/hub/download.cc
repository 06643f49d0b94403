#include "hub/download.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "formats/quote.h"
#include "hub/digest.h"
#include "hub/partial_file.h"
#include "hub/retry.h"

namespace shadowkv {
namespace {

// A try that brought so much was worth it: the server is not broken, the line is.
constexpr int64_t kWorthwhileBytes = 64 << 10;

struct File {
  const Wanted& wanted;
  PartialFile partial;
  std::atomic<int64_t> fetched;  // bytes that came or were there; more than there are where some came twice
  std::atomic<int64_t> plan{0};  // jobs of an earlier plan are stale
  int64_t jobs = 0;              // of this plan, that are not done; these two under the mutex
  int64_t active = 0;            // jobs of any plan that a thread works at

  explicit File(const Wanted& w)
      : wanted(w), partial(w.blob, w.file.size), fetched(partial.present_bytes()) {}
};

struct Job {
  File* file = nullptr;
  ByteRange range;
  bool whole = false;  // the server sends no parts
  int64_t plan = 0;
};

// The piece of a job that one request brings: writes what comes, and marks it from time to time.
class PieceWriter {
 public:
  PieceWriter(File& file, const Job& job, int64_t begin, int64_t step)
      : file_(file), job_(job), step_(step), begin_(begin), at_(begin), marked_(begin) {}

  void write(std::span<const std::byte> bytes) {
    if (job_.plan != file_.plan) throw RangeRefused("the plan has changed");
    file_.partial.write(at_, bytes);
    at_ += static_cast<int64_t>(bytes.size());
    file_.fetched += static_cast<int64_t>(bytes.size());
    if (at_ - marked_ >= step_) mark();
  }
  void mark() { file_.partial.mark({std::exchange(marked_, at_), at_}); }
  [[nodiscard]] int64_t at() const { return at_; }
  [[nodiscard]] int64_t written() const { return at_ - begin_; }

 private:
  File& file_;
  const Job& job_;
  int64_t step_, begin_, at_, marked_;
};

class Download {
 public:
  explicit Download(const DownloadPlan& plan) : plan_(plan) {
    for (const Wanted& wanted : plan.wanted) files_.push_back(std::make_unique<File>(wanted));
    unfinished_ = static_cast<int64_t>(files_.size());
    for (const auto& file : files_) cut(*file, false);
  }

  void run(const std::function<void(int64_t)>& progress) {
    std::vector<std::jthread> threads;
    const StopAtEnd stop{*this};
    for (int64_t i = 0; i < plan_.options.connections; ++i) threads.emplace_back([this] { work(); });
    std::unique_lock lock(mutex_);
    while (unfinished_ > 0 && !failure_) {
      lock.unlock();
      progress(bytes());
      lock.lock();
      changed_.wait_for(lock, std::chrono::milliseconds(100),
                        [this] { return unfinished_ == 0 || failure_; });
    }
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  // Ends the threads before they are waited for, however run() is left.
  struct StopAtEnd {
    Download& download;
    ~StopAtEnd() {
      const std::lock_guard lock(download.mutex_);
      download.stop_ = true;
      download.changed_.notify_all();
    }
  };

  [[nodiscard]] int64_t bytes() const {
    int64_t sum = 0;
    for (const auto& file : files_) sum += std::min<int64_t>(file->fetched, file->wanted.file.size);
    return sum;
  }

  void check() const {
    if (stop_) throw Interrupted("interrupted");
  }

  // Makes jobs of what a file lacks. The mutex is held, or there are no threads yet.
  void cut(File& file, bool whole) {
    const int64_t size = file.wanted.file.size;
    std::vector<ByteRange> ranges;
    if (!whole) ranges = file.partial.missing(plan_.options.part_bytes);
    // Nothing is missing: one job, which has it checked.
    if (ranges.empty()) ranges.emplace_back(0, whole ? size : 0);
    file.jobs = static_cast<int64_t>(ranges.size());
    for (const ByteRange& range : ranges) queue_.push_back({&file, range, whole, file.plan});
  }

  void start_again(File& file, bool whole) {
    ++file.plan;
    file.partial.restart();
    file.fetched = 0;
    cut(file, whole);
    changed_.notify_all();
  }

  void work() noexcept {
    try {
      HubClient client([this] { check(); });
      while (std::optional<Job> job = next()) {
        run_job(client, *job);
        leave(*job);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_ && !stop_) failure_ = std::current_exception();
      stop_ = true;
      changed_.notify_all();
    }
  }

  std::optional<Job> next() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stop_ || unfinished_ == 0 || !queue_.empty(); });
      if (stop_ || unfinished_ == 0) return std::nullopt;
      Job job = queue_.front();
      queue_.pop_front();
      if (job.plan != job.file->plan) continue;
      ++job.file->active;
      return job;
    }
  }

  void run_job(HubClient& client, const Job& job) {
    try {
      fetch(client, job);
    } catch (const RangeRefused&) {
      const std::lock_guard lock(mutex_);
      if (job.plan == job.file->plan) start_again(*job.file, true);
    }
  }

  void fetch(HubClient& client, const Job& job) {
    File& file = *job.file;
    Retries retries(plan_.options, [this] { check(); });
    const int64_t step = std::clamp<int64_t>(plan_.options.part_bytes / 8, 4096, int64_t{4} << 20);
    auto [begin, end] = job.range;
    while (begin < end) {
      PieceWriter writer(file, job, begin, step);
      const bool all = begin == 0 && end == file.wanted.file.size;
      try {
        plan_.repository.fetch(client, plan_.commit, {file.wanted.file, begin, end, job.whole || all},
                               [&](std::span<const std::byte> bytes) { writer.write(bytes); });
        writer.mark();
        return;
      } catch (const TransientFailure& failure) {
        writer.mark();
        if (job.whole) {
          file.fetched -= writer.written();
        } else {
          begin = writer.at();
          if (writer.written() >= kWorthwhileBytes) retries.progressed();
        }
        retries.failed(failure);
      } catch (const Interrupted&) {
        writer.mark();
        throw;
      }
    }
  }

  // The last to leave a file of which nothing is missing checks it: nobody writes there any more.
  void leave(const Job& job) {
    File& file = *job.file;
    {
      const std::lock_guard lock(mutex_);
      --file.active;
      if (job.plan == file.plan) --file.jobs;
      if (file.jobs > 0 || file.active > 0) return;
      file.jobs = 1;  // this thread's
    }
    const DigestKind kind = digest_kind(file.wanted.file.etag, file.wanted.file.path);
    const std::string found = digest_of_file(file.partial.path(), kind, [this] { check(); });
    if (found == file.wanted.file.etag) return finish(file);
    if (file.partial.resumed()) {  // the disk may have lost what it was given
      const std::lock_guard lock(mutex_);
      return start_again(file, false);
    }
    file.partial.discard();
    throw DeviceFailure(
        fmt::format("{} came damaged: its {} is {}, the hub promises {}; it was thrown away, try again",
                    printable(file.wanted.file.path), name_of(kind), found, file.wanted.file.etag));
  }

  void finish(File& file) {
    file.partial.commit();  // waits for the disk
    const std::lock_guard lock(mutex_);
    --unfinished_;
    changed_.notify_all();
  }

  const DownloadPlan& plan_;
  std::vector<std::unique_ptr<File>> files_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> queue_;
  int64_t unfinished_ = 0;
  std::exception_ptr failure_;
  std::atomic<bool> stop_ = false;
};

}  // namespace

void download(const DownloadPlan& plan, const std::function<void(int64_t bytes)>& progress) {
  Download(plan).run(progress);
}

}  // namespace shadowkv
