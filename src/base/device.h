// Where memory lies and where work runs. A Device owns two memory tiers (its own memory, and host memory it
// can read), counts every byte by tier and purpose, and offers two queues: compute and copy. On the CPU both
// tiers are ordinary memory, counted apart, and queues run at once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/op_clock.h"
#include "base/parallel.h"

namespace shadowkv {

enum class Tier : uint8_t { device, pinned_host };
inline constexpr int kTiers = 2;
[[nodiscard]] std::string_view name_of(Tier tier);

// What a byte is for; statistics and footprints speak in these.
enum class Purpose : uint8_t {
  weights,
  keys_values,
  index,
  factors,
  values,
  slots,
  sampling,  // what requests change in their logits
  tables,
  activations,
  prompts  // what prompts take while they are read, and sequences while they change form
};
inline constexpr int kPurposes = 10;
[[nodiscard]] std::string_view name_of(Purpose purpose);

struct MemoryUse {
  std::array<std::array<int64_t, kPurposes>, kTiers> bytes{};  // [tier][purpose], held now
  std::array<int64_t, kTiers> peak{};                          // most ever held, per tier
  std::array<int64_t, kTiers> budget{};                        // most that may be held, per tier

  [[nodiscard]] int64_t held(Tier tier) const;
  [[nodiscard]] int64_t of(Tier tier, Purpose purpose) const;
};

class Device;

// Owned memory of one tier; gives its bytes back to the device's count when it dies. Must not outlive its
// device.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] int64_t bytes() const { return bytes_; }
  [[nodiscard]] Tier tier() const { return tier_; }
  [[nodiscard]] Purpose purpose() const { return purpose_; }
  [[nodiscard]] bool empty() const { return data_ == nullptr; }

 private:
  friend class Device;
  Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  Tier tier_ = Tier::device;
  Purpose purpose_ = Purpose::activations;
};

enum class DeviceKind : uint8_t { cpu, cuda };

// A recorded piece of work that can be run again as a whole.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch() = 0;  // on the queue that recorded it
};

// An ordered stream of work on one device. Every op of kernels.h takes one.
class Queue {
 public:
  virtual ~Queue() = default;
  [[nodiscard]] virtual DeviceKind kind() const = 0;
  [[nodiscard]] virtual Device& device() const = 0;
  virtual void wait_for(Queue& other) = 0;  // later work here starts after what `other` holds now
  virtual void synchronize() = 0;           // returns when all work is done
  // Copies between any two places of this device's tiers or host memory, in queue order.
  virtual void copy(void* to, const void* from, int64_t bytes) = 0;
  virtual void fill_zero(void* to, int64_t bytes) = 0;
  // Records what body issues on this queue (and on queues that wait for it and are waited for) instead of
  // running it; null where the device records nothing. body must neither allocate nor synchronise nor copy
  // from the host.
  [[nodiscard]] virtual std::unique_ptr<Graph> record(const std::function<void()>& /*body*/) {
    return nullptr;
  }
};

// Two queues for a piece of work that runs beside others: its arithmetic, and the transfers that it waits
// for.
struct Lane {
  Queue& compute;
  Queue& copy;
};

class Device {
 public:
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  [[nodiscard]] virtual DeviceKind kind() const = 0;
  [[nodiscard]] virtual Queue& compute() = 0;
  [[nodiscard]] virtual Queue& copy() = 0;
  // Lanes that can be busy at once, at least one. Lane 0 is compute() and copy(); an earlier lane's work goes
  // before a later one's. Work elsewhere than on lane 0 starts and ends by wait_for().
  [[nodiscard]] virtual int lanes() const { return 1; }
  [[nodiscard]] virtual Lane lane(int /*index*/) { return {compute(), copy()}; }
  [[nodiscard]] virtual ThreadPool& threads() = 0;  // host threads
  // Type of activations: float32 on the CPU, bfloat16 on a GPU.
  [[nodiscard]] virtual DType activation_dtype() const = 0;

  // 64-byte aligned (256 on a GPU), content undefined, counted from now on. Throws OutOfMemory with what was
  // asked, what is held and the budget. 0 bytes give an empty Buffer.
  [[nodiscard]] Buffer allocate(Tier tier, Purpose purpose, int64_t bytes);

  // Asked when the device tier has no room for that many bytes: moves what may lie elsewhere and returns the
  // bytes freed, 0 when there is nothing left to move. `owner` must be removed before it dies.
  using Relief = std::function<int64_t(int64_t bytes)>;
  void add_relief(const void* owner, Relief relief);
  void remove_relief(const void* owner);

  // Grows whenever memory for tables or activations is allocated, or the op clock starts or stops: while it
  // stands still, a recorded graph may serve again.
  [[nodiscard]] int64_t address_epoch() const;

  // Times every op until it is stopped (base/op_clock.h). Meanwhile copy() is compute(), so that ops run one
  // after the other and each one's time is its own.
  OpClock& start_op_clock();
  void stop_op_clock();
  [[nodiscard]] OpClock* op_clock() const { return op_clock_.get(); }  // null: ops are not timed

  void set_budget(Tier tier, int64_t bytes);
  [[nodiscard]] MemoryUse memory() const;
  [[nodiscard]] int64_t free_bytes(Tier tier) const;  // budget - held

 protected:
  Device() = default;
  virtual std::byte* allocate_raw(Tier tier, int64_t bytes) = 0;  // nullptr when there is none
  virtual void free_raw(Tier tier, std::byte* data, int64_t bytes) noexcept = 0;
  [[nodiscard]] virtual std::unique_ptr<OpClock> make_op_clock() = 0;

 private:
  friend class Buffer;
  void release(Buffer& buffer) noexcept;
  [[nodiscard]] bool reserve(Tier tier, Purpose purpose, int64_t bytes);
  [[nodiscard]] bool relieve(int64_t bytes);
  void change_op_clock(std::unique_ptr<OpClock> clock);

  std::unique_ptr<OpClock> op_clock_;
  std::vector<std::pair<const void*, Relief>> reliefs_;
  mutable std::mutex mutex_;
  MemoryUse use_;              // guarded by mutex_
  int64_t address_epoch_ = 0;  // guarded by mutex_
};

// Brings what a buffer holds, and all that it counts as, to another tier; returns when it is there. Throws
// OutOfMemory, and then it is where it was.
void move_buffer(Queue& queue, Buffer& buffer, Tier to);

struct CpuDeviceOptions {
  int threads = 0;           // 0: one per core
  int64_t device_bytes = 0;  // budget of the device tier; 0: half of the machine's memory
  int64_t pinned_bytes = 0;  // budget of the host tier; 0: half of the machine's memory
};

[[nodiscard]] std::unique_ptr<Device> make_cpu_device(const CpuDeviceOptions& options = {});

struct CudaDeviceOptions {
  int ordinal = 0;           // which GPU, in [0, cuda_device_count())
  int threads = 0;           // host threads; 0: one per core
  int64_t device_bytes = 0;  // budget of the device tier; 0: what is free at the start, less 3 GiB
  int64_t pinned_bytes = 0;  // budget of the host tier; 0: half of the machine's memory
};

// GPUs that this process may use; 0 without a driver or in a build without CUDA.
[[nodiscard]] int cuda_device_count();
// Throws InvalidInput in a build without CUDA or without such a GPU, DeviceFailure when the GPU fails.
[[nodiscard]] std::unique_ptr<Device> make_cuda_device(const CudaDeviceOptions& options = {});

}  // namespace shadowkv
