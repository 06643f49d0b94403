#include "engine/state_transfer.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace shadowkv {
namespace {

constexpr int64_t kMostBlocks = 16;  // that travel at a time

// Walks pieces from the first byte to the last.
class Cursor {
 public:
  explicit Cursor(std::span<const MemoryPiece> pieces) : pieces_(pieces) {}

  // Calls copy(place in the pieces, offset of the bytes, bytes) for the next `bytes` of them.
  template <typename Copy>
  void next(int64_t bytes, const Copy& copy) {
    for (int64_t done = 0; done < bytes;) {
      const MemoryPiece& piece = pieces_[piece_];
      const int64_t count = std::min(bytes - done, piece.bytes - at_);
      if (count > 0) copy(piece.data + at_, done, count);
      done += count;
      at_ += count;
      if (at_ < piece.bytes) continue;
      ++piece_;
      at_ = 0;
    }
  }

 private:
  std::span<const MemoryPiece> pieces_;
  std::size_t piece_ = 0;
  int64_t at_ = 0;
};

// Two places that take turns, and how the content is cut into what they hold.
class Staging {
 public:
  Staging(int64_t content, Device& device) : content_(content) {
    const int64_t fit = device.free_bytes(Tier::pinned_host) / (2 * kStateBlockBytes);
    const int64_t blocks = std::clamp<int64_t>(fit, 1, kMostBlocks);
    bytes_ = std::min(blocks * kStateBlockBytes, round_up(std::max<int64_t>(content, 1), 64));
    memory_ = device.allocate(Tier::pinned_host, Purpose::prompts, 2 * bytes_);
  }

  [[nodiscard]] int64_t turns() const { return ceil_div(content_, bytes_); }
  [[nodiscard]] int64_t first_block(int64_t turn) const { return turn * bytes_ / kStateBlockBytes; }
  [[nodiscard]] std::span<std::byte> of(int64_t turn) const {
    const int64_t count = std::min(bytes_, content_ - turn * bytes_);
    return {memory_.data() + turn % 2 * bytes_, static_cast<std::size_t>(count)};
  }

 private:
  int64_t content_, bytes_ = 0;
  Buffer memory_;
};

// Waits for the queue however a transfer ends: copies use the places of it.
class Drain {
 public:
  explicit Drain(Queue& queue) : queue_(queue) {}
  Drain(const Drain&) = delete;
  Drain& operator=(const Drain&) = delete;
  ~Drain() {
    try {
      queue_.synchronize();
    } catch (const DeviceFailure&) {
      // A device that failed uses nothing any more; whoever asks it next is told.
    }
  }

 private:
  Queue& queue_;
};

}  // namespace

std::vector<MemoryPiece> state_content(std::span<const int32_t> ids, std::string_view note,
                                       std::span<const MemoryPiece> state) {
  auto* first = reinterpret_cast<std::byte*>(const_cast<int32_t*>(ids.data()));
  auto* second = reinterpret_cast<std::byte*>(const_cast<char*>(note.data()));
  std::vector<MemoryPiece> all = {{first, std::ssize(ids) * size_of(DType::i32)}, {second, std::ssize(note)}};
  all.insert(all.end(), state.begin(), state.end());
  return all;
}

void copy_from_content(std::span<const MemoryPiece> content, int64_t offset, std::span<std::byte> to,
                       Queue& queue) {
  const Drain drain(queue);
  Cursor cursor(content);
  cursor.next(offset, [](const std::byte*, int64_t, int64_t) {});
  cursor.next(std::ssize(to), [&](const std::byte* from, int64_t at, int64_t bytes) {
    queue.copy(to.data() + at, from, bytes);
  });
  queue.synchronize();
}

void copy_to_content(std::span<const MemoryPiece> content, int64_t offset, std::span<const std::byte> from,
                     Queue& queue) {
  const Drain drain(queue);
  Cursor cursor(content);
  cursor.next(offset, [](const std::byte*, int64_t, int64_t) {});
  cursor.next(std::ssize(from),
              [&](std::byte* to, int64_t at, int64_t bytes) { queue.copy(to, from.data() + at, bytes); });
  queue.synchronize();
}

void save_content(StateWriter& writer, std::span<const MemoryPiece> pieces, Device& device) {
  Queue& queue = device.compute();
  const Staging staging(bytes_of(pieces), device);
  const Drain drain(queue);
  Cursor cursor(pieces);
  const auto fetch = [&](int64_t turn) {
    const std::span<std::byte> to = staging.of(turn);
    cursor.next(std::ssize(to), [&](const std::byte* from, int64_t at, int64_t bytes) {
      queue.copy(to.data() + at, from, bytes);
    });
  };
  if (staging.turns() > 0) fetch(0);
  for (int64_t turn = 0; turn < staging.turns(); ++turn) {
    queue.synchronize();
    if (turn + 1 < staging.turns()) fetch(turn + 1);
    writer.write(staging.first_block(turn), staging.of(turn), device.threads());
  }
}

void load_content(const StateReader& reader, std::span<const MemoryPiece> pieces, Device& device) {
  Queue& queue = device.compute();
  require(bytes_of(pieces) == reader.content_bytes(), "a state of {} bytes was to come from a content of {}",
          bytes_of(pieces), reader.content_bytes());
  const Staging staging(reader.content_bytes(), device);
  const Drain drain(queue);
  Cursor cursor(pieces);
  const auto read = [&](int64_t turn) {
    reader.read(staging.first_block(turn), staging.of(turn), device.threads());
  };
  if (staging.turns() > 0) read(0);
  for (int64_t turn = 0; turn < staging.turns(); ++turn) {
    queue.synchronize();  // what the other place held has come to where it belongs
    const std::span<const std::byte> from = staging.of(turn);
    cursor.next(std::ssize(from),
                [&](std::byte* to, int64_t at, int64_t bytes) { queue.copy(to, from.data() + at, bytes); });
    if (turn + 1 < staging.turns()) read(turn + 1);
  }
}

}  // namespace shadowkv
