#include "base/cuda_device.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <string>

#include "base/bytes.h"
#include "base/check.h"
#include "base/cuda_error.h"
#include "base/slab_heap.h"
#include "shadowkv/device_lost.h"

namespace shadowkv {
namespace {

constexpr int64_t kHugePageBytes = 2 << 20;
// Left to the driver, to recorded graphs (2 GiB were too few for all at a step of 40 layers), to library
// handles and to what is lost between slabs.
constexpr int64_t kDeviceReserve = int64_t{3} << 30;

constexpr SlabHeapConfig kDeviceHeap{.alignment = 256,
                                     .granularity = kHugePageBytes,
                                     .first_slab = int64_t{64} << 20,
                                     .largest_slab = int64_t{64} << 20};
// Each pinning call costs milliseconds: slabs double with what is held.
constexpr SlabHeapConfig kPinnedHeap{.alignment = 256,
                                     .granularity = kHugePageBytes,
                                     .first_slab = int64_t{32} << 20,
                                     .largest_slab = int64_t{1} << 30};

int64_t physical_bytes() {
  return static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<int64_t>(sysconf(_SC_PAGE_SIZE));
}

// Node that the kernel names for the GPU's slot; -1 where it names none.
int numa_node_of(int ordinal) {
  std::array<char, 32> bus{};
  if (cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), ordinal) != cudaSuccess) return -1;
  std::string name(bus.data());
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  std::ifstream file("/sys/bus/pci/devices/" + name + "/numa_node");
  int node = -1;
  return file >> node ? node : -1;
}

// Asks for pages of one node, by system call because libnuma is not a dependency. A wish: failure is
// harmless.
void prefer_node(std::byte* data, int64_t bytes, int node) {
  constexpr int kPreferred = 1;  // MPOL_PREFERRED
  if (node < 0 || node >= 64) return;
  const unsigned long mask = 1UL << node;
  [[maybe_unused]] const long ignored =
      syscall(SYS_mbind, data, bytes, kPreferred, &mask, 8 * sizeof(mask) + 1, 0);
}

// Every page in parallel: the kernel clears memory at its first touch.
void touch(ThreadPool& threads, std::byte* data, int64_t bytes) {
  constexpr int64_t kPiece = 16 << 20;
  constexpr int64_t kPage = 4096;
  threads.for_each(ceil_div(bytes, kPiece), [&](int64_t piece) {
    const int64_t end = std::min(bytes, (piece + 1) * kPiece);
    for (int64_t at = piece * kPiece; at < end; at += kPage) {
      *const_cast<volatile std::byte*>(data + at) = std::byte{0};
    }
  });
}

// Address space of a multiple of huge pages, aligned to them; nullptr when there is none.
std::byte* map_huge(int64_t bytes) {
  const int64_t padded = bytes + kHugePageBytes;
  void* memory = mmap(nullptr, static_cast<std::size_t>(padded), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  auto* start = static_cast<std::byte*>(memory);
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(start));
  const int64_t skip = round_up(address, kHugePageBytes) - address;
  if (skip > 0) munmap(start, static_cast<std::size_t>(skip));
  if (skip < kHugePageBytes) {
    munmap(start + skip + bytes, static_cast<std::size_t>(kHugePageBytes - skip));
  }
  madvise(start + skip, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
  return start + skip;
}

CudaQueue& as_cuda(Queue& queue) {
  require(queue.kind() == DeviceKind::cuda, "a CUDA queue was asked to wait for a queue of another device");
  return static_cast<CudaQueue&>(queue);
}

}  // namespace

namespace {

// Whether every later call would report it again, whatever it asks for.
bool is_lasting(cudaError_t error) {
  constexpr std::array kLasting = {cudaErrorIllegalAddress,      cudaErrorLaunchFailure,
                                   cudaErrorLaunchTimeout,       cudaErrorAssert,
                                   cudaErrorHardwareStackError,  cudaErrorIllegalInstruction,
                                   cudaErrorMisalignedAddress,   cudaErrorInvalidAddressSpace,
                                   cudaErrorInvalidPc,           cudaErrorECCUncorrectable,
                                   cudaErrorNvlinkUncorrectable, cudaErrorExternalDevice,
                                   cudaErrorTensorMemoryLeak,    cudaErrorContained,
                                   cudaErrorMpsConnectionFailed};
  return std::find(kLasting.begin(), kLasting.end(), error) != kLasting.end();
}

}  // namespace

void check_cuda(cudaError_t error, const char* what) {
  check_cuda(error, what, -1);
}

void check_cuda(cudaError_t error, const char* what, int64_t bytes) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not report it again
  const std::string size = bytes < 0 ? "" : fmt::format(" ({})", format_bytes(bytes));
  const std::string message = fmt::format("{}{}: the GPU reported {}: {}", what, size,
                                          cudaGetErrorName(error), cudaGetErrorString(error));
  if (error == cudaErrorMemoryAllocation) throw OutOfMemory(message + "; lower --device-memory");
  if (is_lasting(error)) {
    throw DeviceLost(message + "; what it held is lost, and only a new process can use it again");
  }
  throw DeviceFailure(message);
}

// ---- graphs -----------------------------------------------------------------------------------------------

CudaGraph::CudaGraph(cudaGraph_t graph, cudaStream_t stream) : stream_(stream) {
  check_cuda(cudaGraphInstantiate(&exec_, graph, cudaGraphInstantiateFlagUseNodePriority),
             "making a graph ready");
}

CudaGraph::~CudaGraph() {
  cudaGraphExecDestroy(exec_);
}

void CudaGraph::launch() {
  check_cuda(cudaGraphLaunch(exec_, stream_), "launching a graph");
}

// ---- queues -----------------------------------------------------------------------------------------------

CudaQueue::CudaQueue(Device& device, int priority, int64_t scratch_bytes)
    : device_(device), scratch_bytes_(scratch_bytes) {
  check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority), "making a stream");
  check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event");
  if (scratch_bytes == 0) return;
  void* scratch = nullptr;
  check_cuda(cudaMalloc(&scratch, static_cast<std::size_t>(scratch_bytes + kWorkspaceBytes)),
             "allocating scratch memory", scratch_bytes + kWorkspaceBytes);
  scratch_ = static_cast<std::byte*>(scratch);
}

CudaQueue::~CudaQueue() {
  cudaStreamSynchronize(stream_);
  cudaEventDestroy(event_);
  cudaStreamDestroy(stream_);
  cudaFree(scratch_);
}

std::byte* CudaQueue::scratch(int64_t bytes, const char* op) const {
  if (bytes > scratch_bytes_) {
    throw OutOfMemory(
        fmt::format("{}: {} of scratch memory were asked for, there are {}; use smaller batches", op,
                    format_bytes(bytes), format_bytes(scratch_bytes_)));
  }
  return scratch_;
}

// A wait refers to what the event marked when it was issued, so one event a queue is enough.
void CudaQueue::wait_for(Queue& other) {
  CudaQueue& from = as_cuda(other);
  if (&from == this) return;
  check_cuda(cudaEventRecord(from.event_, from.stream_), "marking a queue's work");
  check_cuda(cudaStreamWaitEvent(stream_, from.event_, 0), "waiting for a queue");
}

void CudaQueue::synchronize() {
  check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU");
}

void CudaQueue::copy(void* to, const void* from, int64_t bytes) {
  if (bytes <= 0) return;
  check_cuda(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream_),
             "copying memory", bytes);
}

void CudaQueue::fill_zero(void* to, int64_t bytes) {
  if (bytes <= 0) return;
  check_cuda(cudaMemsetAsync(to, 0, static_cast<std::size_t>(bytes), stream_), "clearing memory", bytes);
}

void CudaQueue::begin_capture() {
  // Relaxed: libraries may load kernels at first use, on this thread or another.
  check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "recording a graph");
}

std::unique_ptr<CudaGraph> CudaQueue::end_capture() {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(stream_, &graph), "ending the recording of a graph");
  const auto destroy = [](cudaGraph_t g) { cudaGraphDestroy(g); };
  const std::unique_ptr<CUgraph_st, decltype(destroy)> owner(graph, destroy);
  return std::make_unique<CudaGraph>(graph, stream_);
}

void CudaQueue::abandon_capture() noexcept {
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
  cudaGetLastError();
}

std::unique_ptr<Graph> CudaQueue::record(const std::function<void()>& body) {
  begin_capture();
  try {
    body();
  } catch (...) {
    abandon_capture();
    throw;
  }
  try {
    return end_capture();
  } catch (const OutOfMemory&) {
    return nullptr;  // the work runs as well without a recording
  }
}

// ---- op times ---------------------------------------------------------------------------------------------

namespace {

// Events between ops; in a recording they become nodes of the graph and are taken anew at each replay.
class CudaOpClock final : public OpClock {
 public:
  ~CudaOpClock() override {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }

 protected:
  void mark(Queue& queue, int64_t index) override {
    while (static_cast<int64_t>(events_.size()) <= index) {
      events_.emplace_back();
      check_cuda(cudaEventCreate(&events_.back()), "making an event");
    }
    queue_ = &as_cuda(queue);
    const cudaStream_t stream = queue_->stream();
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(stream, &status), "asking for a recording");
    const unsigned flags =
        status == cudaStreamCaptureStatusNone ? cudaEventRecordDefault : cudaEventRecordExternal;
    check_cuda(cudaEventRecordWithFlags(events_[static_cast<std::size_t>(index)], stream, flags),
               "marking the end of an op");
  }
  void wait() override {
    if (queue_ != nullptr) queue_->synchronize();
  }
  [[nodiscard]] double between(int64_t index) const override {
    const auto i = static_cast<std::size_t>(index);
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, events_[i], events_[i + 1]), "reading the time of an op");
    return 1e-3 * milliseconds;
  }

 private:
  std::vector<cudaEvent_t> events_;
  CudaQueue* queue_ = nullptr;
};

}  // namespace

std::unique_ptr<OpClock> CudaDevice::make_op_clock() {
  return std::make_unique<CudaOpClock>();
}

// ---- device -----------------------------------------------------------------------------------------------

CudaDevice::CudaDevice(const CudaDeviceOptions& options) : ordinal_(options.ordinal), pool_(options.threads) {
  check_cuda(cudaSetDevice(ordinal_), "choosing the GPU");
  check_cuda(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, ordinal_),
             "asking for the GPU's size");
  check_cuda(
      cudaDeviceGetAttribute(&shared_bytes_per_block_, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal_),
      "asking for the GPU's shared memory");
  // Kernels that want different shares of a multiprocessor's memory as shared memory cannot be on it at once:
  // a block waits until the multiprocessor is idle. So all of them are given the same.
  check_cuda(cudaDeviceSetCacheConfig(cudaFuncCachePreferShared), "preferring shared memory");
  numa_node_ = numa_node_of(ordinal_);
  make_queues();
  device_heap_ = std::make_unique<SlabHeap>(
      kDeviceHeap, SlabSource{[this](int64_t bytes) { return map_device(bytes); },
                              [](std::byte* data, int64_t /*bytes*/) { cudaFree(data); }});
  pinned_heap_ = std::make_unique<SlabHeap>(
      kPinnedHeap, SlabSource{[this](int64_t bytes) { return map_pinned(bytes); },
                              [](std::byte* data, int64_t bytes) { unmap_pinned(data, bytes); }});
  set_budgets(options);
}

// Transfers go first: their few blocks must not wait behind those of kernels that fill the device.
void CudaDevice::make_queues() {
  constexpr int64_t kScratchBytes = int64_t{64} << 20, kSideScratchBytes = int64_t{16} << 20;
  int last = 0, first = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&last, &first), "asking for stream priorities");
  const auto priority = [&](int nth) { return std::min(first + nth, last); };
  compute_ = std::make_unique<CudaQueue>(*this, priority(1), kScratchBytes);
  copy_ = std::make_unique<CudaQueue>(*this, priority(0), 0);
  for (int i = 1; i < kLanes; ++i) {
    side_compute_.push_back(std::make_unique<CudaQueue>(*this, priority(1 + i), kSideScratchBytes));
    side_copy_.push_back(std::make_unique<CudaQueue>(*this, priority(0), 0));
  }
}

Lane CudaDevice::lane(int index) {
  if (index == 0) return {compute(), copy()};
  const auto side = static_cast<std::size_t>(index - 1);
  return {*side_compute_.at(side), *side_copy_.at(side)};
}

CudaDevice::~CudaDevice() {
  cudaSetDevice(ordinal_);
  cudaDeviceSynchronize();
  states_.clear();
  device_heap_.reset();
  pinned_heap_.reset();
}

void CudaDevice::set_budgets(const CudaDeviceOptions& options) {
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "asking for the GPU's free memory");
  const int64_t left = std::max<int64_t>(0, static_cast<int64_t>(free) - kDeviceReserve);
  set_budget(Tier::device, options.device_bytes > 0 ? options.device_bytes : left);
  set_budget(Tier::pinned_host, options.pinned_bytes > 0 ? options.pinned_bytes : physical_bytes() / 2);
}

std::byte* CudaDevice::allocate_raw(Tier tier, int64_t bytes) {
  return (tier == Tier::device ? device_heap_ : pinned_heap_)->allocate(bytes);
}

void CudaDevice::free_raw(Tier tier, std::byte* data, int64_t bytes) noexcept {
  (tier == Tier::device ? device_heap_ : pinned_heap_)->free(data, bytes);
}

std::byte* CudaDevice::map_device(int64_t bytes) const {
  check_cuda(cudaSetDevice(ordinal_), "choosing the GPU");
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<std::size_t>(bytes));
  if (error != cudaErrorMemoryAllocation) check_cuda(error, "allocating device memory", bytes);
  if (error != cudaSuccess) cudaGetLastError();
  return static_cast<std::byte*>(memory);
}

// Huge pages touched by all threads and then pinned are there ten times sooner than cudaHostAlloc's.
std::byte* CudaDevice::map_pinned(int64_t bytes) {
  check_cuda(cudaSetDevice(ordinal_), "choosing the GPU");
  std::byte* data = map_huge(bytes);
  if (data == nullptr) return nullptr;
  prefer_node(data, bytes, numa_node_);
  touch(pool_, data, bytes);
  const cudaError_t error = cudaHostRegister(data, static_cast<std::size_t>(bytes),
                                             cudaHostRegisterMapped | cudaHostRegisterPortable);
  if (error != cudaSuccess) {
    munmap(data, static_cast<std::size_t>(bytes));
    if (error != cudaErrorMemoryAllocation) check_cuda(error, "pinning host memory", bytes);
    cudaGetLastError();
    return nullptr;
  }
  void* seen = nullptr;
  if (cudaHostGetDevicePointer(&seen, data, 0) != cudaSuccess || seen != data) {
    unmap_pinned(data, bytes);
    throw DeviceFailure(
        "the GPU sees pinned host memory under another address than the CPU, which is not supported");
  }
  return data;
}

// Copies that are queued may still read what was given back.
void CudaDevice::unmap_pinned(std::byte* data, int64_t bytes) noexcept {
  cudaDeviceSynchronize();
  cudaHostUnregister(data);
  munmap(data, static_cast<std::size_t>(bytes));
}

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

namespace {

// "cuda:0 (NVIDIA H200), cuda:1 (NVIDIA H200)"
std::string list_gpus(int count) {
  std::string list;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, ordinal), "asking for a GPU's name");
    list += fmt::format("{}cuda:{} ({})", ordinal > 0 ? ", " : "", ordinal, properties.name);
  }
  return list;
}

}  // namespace

std::unique_ptr<Device> make_cuda_device(const CudaDeviceOptions& options) {
  const int count = cuda_device_count();
  require(count > 0, "no NVIDIA GPU was found; check that nvidia-smi lists one, or take --device cpu");
  if (options.ordinal < 0 || options.ordinal >= count) {
    throw InvalidInput(fmt::format("cuda:{} was asked for; there is {}", options.ordinal, list_gpus(count)));
  }
  return std::make_unique<CudaDevice>(options);
}

}  // namespace shadowkv
