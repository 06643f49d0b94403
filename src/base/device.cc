#include "base/device.h"

#include <utility>

#include "base/bytes.h"
#include "base/check.h"

namespace shadowkv {

std::string_view name_of(Tier tier) {
  return tier == Tier::device ? "device" : "host";
}

std::string_view name_of(Purpose purpose) {
  constexpr std::array<std::string_view, kPurposes> kNames = {
      "weights", "keys_values", "index", "factors", "values", "slots", "tables", "activations"};
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

Buffer Device::allocate(Tier tier, Purpose purpose, int64_t bytes) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  require(bytes > 0, "an allocation of {} bytes was asked for", bytes);
  const auto t = static_cast<std::size_t>(tier);
  {
    const std::lock_guard lock(mutex_);
    const int64_t held = use_.held(tier);
    if (bytes > use_.budget[t] - held) {
      throw OutOfMemory(
          fmt::format("{} of {} memory for {} were asked for, {} of {} are free; ask for less context or "
                      "raise --{}-memory",
                      format_bytes(bytes), name_of(tier), name_of(purpose),
                      format_bytes(use_.budget[t] - held), format_bytes(use_.budget[t]), name_of(tier)));
    }
    use_.bytes[t][static_cast<std::size_t>(purpose)] += bytes;
    use_.peak[t] = std::max(use_.peak[t], held + bytes);
    if (purpose == Purpose::tables || purpose == Purpose::activations) ++address_epoch_;
  }
  buffer.device_ = this;
  buffer.bytes_ = bytes;
  buffer.tier_ = tier;
  buffer.purpose_ = purpose;
  buffer.data_ = allocate_raw(tier, bytes);
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

int64_t Device::address_epoch() const {
  const std::lock_guard lock(mutex_);
  return address_epoch_;
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
