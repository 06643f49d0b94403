// The CPU as a device: both tiers are ordinary memory, in huge pages where the kernel gives them.
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "base/check.h"
#include "base/device.h"

namespace shadowkv {
namespace {

constexpr int64_t kHugePageBytes = 2 << 20;

int64_t physical_bytes() {
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGE_SIZE));
}

// Runs every operation at once on the caller's thread (kernels use the device's pool).
class CpuQueue final : public Queue {
 public:
  explicit CpuQueue(Device& device) : device_(device) {}
  [[nodiscard]] DeviceKind kind() const override { return DeviceKind::cpu; }
  [[nodiscard]] Device& device() const override { return device_; }
  void wait_for(Queue& /*other*/) override {}
  void synchronize() override {}
  void copy(void* to, const void* from, int64_t bytes) override {
    if (bytes > 0) std::memmove(to, from, static_cast<std::size_t>(bytes));
  }
  void fill_zero(void* to, int64_t bytes) override {
    if (bytes > 0) std::memset(to, 0, static_cast<std::size_t>(bytes));
  }

 private:
  Device& device_;
};

// Queues run at once, so that an op is over when it returns.
class CpuOpClock final : public OpClock {
 protected:
  void mark(Queue& /*queue*/, int64_t index) override {
    points_.resize(static_cast<std::size_t>(index) + 1);
    points_.back() = std::chrono::steady_clock::now();
  }
  void wait() override {}
  [[nodiscard]] double between(int64_t index) const override {
    const auto i = static_cast<std::size_t>(index);
    return std::chrono::duration<double>(points_[i + 1] - points_[i]).count();
  }

 private:
  std::vector<std::chrono::steady_clock::time_point> points_;
};

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const CpuDeviceOptions& options) : pool_(options.threads), queue_(*this) {
    const int64_t half = physical_bytes() / 2;
    set_budget(Tier::device, options.device_bytes > 0 ? options.device_bytes : half);
    set_budget(Tier::pinned_host, options.pinned_bytes > 0 ? options.pinned_bytes : half);
  }

  [[nodiscard]] DeviceKind kind() const override { return DeviceKind::cpu; }
  [[nodiscard]] Queue& compute() override { return queue_; }
  [[nodiscard]] Queue& copy() override { return queue_; }
  [[nodiscard]] ThreadPool& threads() override { return pool_; }
  [[nodiscard]] DType activation_dtype() const override { return DType::f32; }

 protected:
  std::byte* allocate_raw(Tier /*tier*/, int64_t bytes) override {
    const int64_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : 64;
    const auto rounded = static_cast<std::size_t>(round_up(bytes, alignment));
    void* data = std::aligned_alloc(static_cast<std::size_t>(alignment), rounded);
    if (data && alignment == kHugePageBytes)
      madvise(data, rounded, MADV_HUGEPAGE);  // a hint; failure is harmless
    return static_cast<std::byte*>(data);
  }
  void free_raw(Tier /*tier*/, std::byte* data, int64_t /*bytes*/) noexcept override { std::free(data); }
  [[nodiscard]] std::unique_ptr<OpClock> make_op_clock() override { return std::make_unique<CpuOpClock>(); }

 private:
  ThreadPool pool_;
  CpuQueue queue_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(const CpuDeviceOptions& options) {
  return std::make_unique<CpuDevice>(options);
}

}  // namespace shadowkv
