// One NVIDIA GPU as a device: pairs of streams as lanes, device and pinned memory cut from slabs, graph
// capture. Only the kernels' CUDA twins, cuda_device.cc and GPU tests include this; everyone else takes a
// Device from make_cuda_device() (device.h).
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <mutex>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "base/device.h"

namespace shadowkv {

// Throws DeviceFailure "what: the GPU reported ..." unless `error` is cudaSuccess.
void check_cuda(cudaError_t error, const char* what);

// A captured piece of work. Must not outlive the queue that recorded it.
class CudaGraph final : public Graph {
 public:
  CudaGraph(cudaGraph_t graph, cudaStream_t stream);
  ~CudaGraph() override;
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  void launch() override;

 private:
  cudaGraphExec_t exec_ = nullptr;
  cudaStream_t stream_;
};

// A non-blocking stream. Threads other than the one that made the device must make its GPU current first;
// GPU 0 is current from the start.
class CudaQueue final : public Queue {
 public:
  // priority: as CUDA counts, lower goes first. Throws OutOfMemory when there is no room for the scratch.
  CudaQueue(Device& device, int priority, int64_t scratch_bytes);
  ~CudaQueue() override;
  CudaQueue(const CudaQueue&) = delete;
  CudaQueue& operator=(const CudaQueue&) = delete;

  [[nodiscard]] DeviceKind kind() const override { return DeviceKind::cuda; }
  [[nodiscard]] Device& device() const override { return device_; }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }

  // Also joins the other queue to a recording that is under way on this one, or this one to the other's.
  void wait_for(Queue& other) override;
  void synchronize() override;
  // Copies from host memory that is not pinned must not be recorded: they would read it when the graph runs.
  void copy(void* to, const void* from, int64_t bytes) override;
  void fill_zero(void* to, int64_t bytes) override;
  // Run the body once before it is recorded, so that kernels are loaded and scratch has grown.
  [[nodiscard]] std::unique_ptr<Graph> record(const std::function<void()>& body) override;

  // Temporaries of one op on this queue, from its first kernel to its last; the next op overwrites them.
  // Fixed at construction, so graphs may hold the address. Throws OutOfMemory naming `op` beyond what there
  // is.
  [[nodiscard]] std::byte* scratch(int64_t bytes, const char* op) const;
  [[nodiscard]] int64_t scratch_bytes() const { return scratch_bytes_; }
  // As much again for the libraries that an op calls, kWorkspaceBytes; on queues that have scratch.
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
  [[nodiscard]] std::byte* workspace() const { return scratch_ + scratch_bytes_; }

  // What record() is made of. A capture that end_capture() does not finish must be dropped by
  // abandon_capture().
  void begin_capture();
  [[nodiscard]] std::unique_ptr<CudaGraph> end_capture();
  void abandon_capture() noexcept;

 private:
  Device& device_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;  // marks what this queue holds when another waits for it
  std::byte* scratch_ = nullptr;
  int64_t scratch_bytes_;
};

class SlabHeap;

// Memory that is given back may be handed out again at once: who frees a buffer that work on the copy queue
// still uses must wait for that work; work on the compute queue is in order with the next user's.
class CudaDevice final : public Device {
 public:
  explicit CudaDevice(const CudaDeviceOptions& options);
  ~CudaDevice() override;

  [[nodiscard]] DeviceKind kind() const override { return DeviceKind::cuda; }
  [[nodiscard]] Queue& compute() override { return *compute_; }
  [[nodiscard]] Queue& copy() override { return op_clock() == nullptr ? *copy_ : *compute_; }
  [[nodiscard]] int lanes() const override { return op_clock() == nullptr ? kLanes : 1; }
  [[nodiscard]] Lane lane(int index) override;
  [[nodiscard]] ThreadPool& threads() override { return pool_; }
  [[nodiscard]] DType activation_dtype() const override { return DType::bf16; }

  [[nodiscard]] int ordinal() const { return ordinal_; }
  [[nodiscard]] int multiprocessors() const { return multiprocessors_; }
  [[nodiscard]] int shared_bytes_per_block() const { return shared_bytes_per_block_; }  // after opting in

  // The kernels' own state on this device (library handles, plans), made by State(*this) at first use. The
  // first use must not be recorded.
  template <typename State>
  [[nodiscard]] State& state() {
    const std::lock_guard lock(states_mutex_);
    std::shared_ptr<void>& held = states_[typeid(State)];
    if (!held) held = std::make_shared<State>(*this);
    return *static_cast<State*>(held.get());
  }

 protected:
  std::byte* allocate_raw(Tier tier, int64_t bytes) override;
  void free_raw(Tier tier, std::byte* data, int64_t bytes) noexcept override;
  [[nodiscard]] std::unique_ptr<OpClock> make_op_clock() override;

 private:
  // Five: up to four parts of a step, and what is written beside them.
  static constexpr int kLanes = 5;

  std::byte* map_device(int64_t bytes) const;
  std::byte* map_pinned(int64_t bytes);
  static void unmap_pinned(std::byte* data, int64_t bytes) noexcept;
  void make_queues();
  void set_budgets(const CudaDeviceOptions& options);

  int ordinal_;
  int multiprocessors_ = 0;
  int shared_bytes_per_block_ = 0;
  int numa_node_ = -1;  // of the GPU; -1: unknown
  ThreadPool pool_;
  std::unique_ptr<CudaQueue> compute_;
  std::unique_ptr<CudaQueue> copy_;
  std::vector<std::unique_ptr<CudaQueue>> side_compute_;  // of lanes 1 ..
  std::vector<std::unique_ptr<CudaQueue>> side_copy_;
  std::unique_ptr<SlabHeap> device_heap_;
  std::unique_ptr<SlabHeap> pinned_heap_;
  std::mutex states_mutex_;
  std::unordered_map<std::type_index, std::shared_ptr<void>> states_;  // guarded by states_mutex_
};

}  // namespace shadowkv
