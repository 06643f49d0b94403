#include "base/device.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"

namespace shadowkv {

std::string_view name_of(Tier tier) {
  return tier == Tier::device ? "device" : "host";
}

std::string_view name_of(Purpose purpose) {
  constexpr std::array<std::string_view, kPurposes> kNames = {
      "weights", "keys_values", "index",  "factors",     "values",
      "slots",   "sampling",    "tables", "activations", "prompts"};
  return kNames[static_cast<std::size_t>(purpose)];
}

int64_t MemoryUse::held(Tier tier) const {
  int64_t sum = 0;
  for (const int64_t part : bytes[static_cast<std::size_t>(tier)]) sum += part;
  return sum;
}

int64_t MemoryUse::of(Tier tier, Purpose purpose) const {
  return bytes[static_cast<std::size_t>(tier)][static_cast<std::size_t>(purpose)];
}

Buffer::Buffer(Buffer&& other) noexcept {
  *this = std::move(other);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  if (device_) device_->release(*this);
  device_ = std::exchange(other.device_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  tier_ = other.tier_;
  purpose_ = other.purpose_;
  return *this;
}

Buffer::~Buffer() {
  if (device_) device_->release(*this);
}

// Counts the bytes if the tier's budget has room for them.
bool Device::reserve(Tier tier, Purpose purpose, int64_t bytes) {
  const auto t = static_cast<std::size_t>(tier);
  const std::lock_guard lock(mutex_);
  const int64_t held = use_.held(tier);
  if (bytes > use_.budget[t] - held) return false;
  use_.bytes[t][static_cast<std::size_t>(purpose)] += bytes;
  use_.peak[t] = std::max(use_.peak[t], held + bytes);
  if (purpose == Purpose::tables || purpose == Purpose::activations) ++address_epoch_;
  return true;
}

bool Device::relieve(int64_t bytes) {
  return std::any_of(reliefs_.begin(), reliefs_.end(),
                     [&](const auto& entry) { return entry.second(bytes) > 0; });
}

void Device::add_relief(const void* owner, Relief relief) {
  reliefs_.emplace_back(owner, std::move(relief));
}

void Device::remove_relief(const void* owner) {
  std::erase_if(reliefs_, [owner](const auto& entry) { return entry.first == owner; });
}

Buffer Device::allocate(Tier tier, Purpose purpose, int64_t bytes) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  require(bytes > 0, "an allocation of {} bytes was asked for", bytes);
  while (!reserve(tier, purpose, bytes)) {
    if (tier == Tier::device && relieve(bytes)) continue;
    throw OutOfMemory(
        fmt::format("{} of {} memory for {} were asked for, {} of {} are free; ask for less context or "
                    "raise --{}-memory",
                    format_bytes(bytes), name_of(tier), name_of(purpose), format_bytes(free_bytes(tier)),
                    format_bytes(memory().budget[static_cast<std::size_t>(tier)]), name_of(tier)));
  }
  buffer.device_ = this;
  buffer.bytes_ = bytes;
  buffer.tier_ = tier;
  buffer.purpose_ = purpose;
  buffer.data_ = allocate_raw(tier, bytes);
  while (!buffer.data_ && tier == Tier::device && relieve(bytes)) buffer.data_ = allocate_raw(tier, bytes);
  if (!buffer.data_) {
    throw OutOfMemory(fmt::format("{} of {} memory were asked for and the system has none; lower --{}-memory",
                                  format_bytes(bytes), name_of(tier), name_of(tier)));
  }
  return buffer;
}

void Device::release(Buffer& buffer) noexcept {
  if (buffer.data_) free_raw(buffer.tier_, buffer.data_, buffer.bytes_);
  const std::lock_guard lock(mutex_);
  use_.bytes[static_cast<std::size_t>(buffer.tier_)][static_cast<std::size_t>(buffer.purpose_)] -=
      buffer.bytes_;
}

void move_buffer(Queue& queue, Buffer& buffer, Tier to) {
  if (buffer.empty() || buffer.tier() == to) return;
  Buffer moved = queue.device().allocate(to, buffer.purpose(), buffer.bytes());
  queue.copy(moved.data(), buffer.data(), buffer.bytes());
  queue.synchronize();  // the old memory goes back
  buffer = std::move(moved);
}

int64_t Device::address_epoch() const {
  const std::lock_guard lock(mutex_);
  return address_epoch_;
}

OpClock& Device::start_op_clock() {
  change_op_clock(make_op_clock());
  return *op_clock_;
}

void Device::stop_op_clock() {
  change_op_clock(nullptr);
}

void Device::change_op_clock(std::unique_ptr<OpClock> clock) {
  copy().synchronize();
  compute().synchronize();
  op_clock_ = std::move(clock);
  const std::lock_guard lock(mutex_);
  ++address_epoch_;
}

void Device::set_budget(Tier tier, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  use_.budget[static_cast<std::size_t>(tier)] = bytes;
}

MemoryUse Device::memory() const {
  const std::lock_guard lock(mutex_);
  return use_;
}

int64_t Device::free_bytes(Tier tier) const {
  const std::lock_guard lock(mutex_);
  return use_.budget[static_cast<std::size_t>(tier)] - use_.held(tier);
}

}  // namespace shadowkv
