#include "engine/prefix_writer.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace shadowkv {

PrefixWriter::PrefixWriter(std::function<void()> on_news)
    : on_news_(std::move(on_news)), thread_([this] { run(); }) {}

PrefixWriter::~PrefixWriter() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

// ---- the service's thread ---------------------------------------------------------------------------------

int64_t PrefixWriter::bytes_of(int64_t piece) const {
  return std::min(kPrefixPieceBytes, file_->content_bytes - piece * kPrefixPieceBytes);
}

void PrefixWriter::begin(File file) {
  for (std::vector<std::byte>& place : places_) place.resize(static_cast<std::size_t>(kPrefixPieceBytes));
  {
    const std::lock_guard lock(mutex_);
    pieces_ = ceil_div(file.content_bytes, kPrefixPieceBytes);
    given_ = written_ = 0;
    is_abandoned_ = false;
    end_.reset();
    file_ = std::move(file);
  }
  changed_.notify_all();
}

std::span<std::byte> PrefixWriter::place(Clock::time_point until) {
  std::unique_lock lock(mutex_);
  const auto is_over = [this] { return end_.has_value() || given_ == pieces_; };
  changed_.wait_until(lock, until, [&] { return is_over() || given_ - written_ < 2; });
  if (is_over() || given_ - written_ >= 2) return {};
  std::vector<std::byte>& place = places_[static_cast<std::size_t>(given_ % 2)];
  return std::span(place).first(static_cast<std::size_t>(bytes_of(given_)));
}

void PrefixWriter::give() {
  {
    const std::lock_guard lock(mutex_);
    ++given_;
  }
  changed_.notify_all();
}

void PrefixWriter::abandon() {
  {
    const std::lock_guard lock(mutex_);
    is_abandoned_ = true;
  }
  changed_.notify_all();
}

std::optional<std::string> PrefixWriter::take_end(Clock::time_point until) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, until, [this] { return end_.has_value(); });
  return std::exchange(end_, std::nullopt);
}

// ---- the writer's thread ----------------------------------------------------------------------------------

void PrefixWriter::run() noexcept {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stops_ || file_.has_value(); });
    if (!file_) return;
    const File& file = *file_;  // which stays until this thread takes it away
    lock.unlock();
    std::string end = write(file);
    lock.lock();
    file_.reset();
    end_ = std::move(end);
    changed_.notify_all();
    on_news_();
  }
}

std::string PrefixWriter::write(const File& file) {
  try {
    StateWriter writer(file.path, file.description, file.content_bytes);
    write_content(writer, file);
    writer.commit();
    return {};
  } catch (const std::exception& error) {
    return error.what();
  }
}

void PrefixWriter::write_content(StateWriter& writer, const File& file) {
  ThreadPool alone(1);
  std::unique_lock lock(mutex_);
  const int64_t pieces = ceil_div(file.content_bytes, kPrefixPieceBytes);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    changed_.wait(lock, [&] { return stops_ || is_abandoned_ || given_ > piece; });
    if (is_abandoned_ || given_ == piece) throw Interrupted(kGivenUp);
    const auto bytes = std::span(places_[static_cast<std::size_t>(piece % 2)])
                           .first(static_cast<std::size_t>(bytes_of(piece)));
    lock.unlock();
    writer.write(piece * kPrefixPieceBlocks, bytes, alone);
    lock.lock();
    ++written_;
    changed_.notify_all();
    on_news_();
  }
}

}  // namespace shadowkv
