// The slots' bookkeeping where it is not done with choosing in one launch (choose_groups.cu): one block a
// sequence and KV head. Bound: latency. fill_keys copies, bound by the bytes of the misses' keys.
#include "kernels/cuda/slots.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) find_slots_kernel(FindParams p) {
  __shared__ FindParams::Shared shared;
  p.run(blockIdx.x, p.load(blockIdx.x), p.chunks + blockIdx.x * int64_t{p.candidates}, shared);
}

__global__ void __launch_bounds__(kThreads) assign_slots_kernel(AssignParams p) {
  __shared__ AssignParams::Shared shared;
  const int32_t* picked = p.picked == nullptr ? nullptr : p.picked + blockIdx.x * int64_t{p.entries};
  p.run(blockIdx.x, p.load(blockIdx.x), picked, shared);
}

// One warp an entry.
__global__ void __launch_bounds__(kThreads)
    fill_keys_kernel(DecodeBatch batch, const int32_t* assigned, const int32_t* source,
                     const std::byte* rebuilt, SlotView slots, int64_t entries, int64_t candidates) {
  const int64_t b = blockIdx.z, g = blockIdx.y, bg = b * slots.kv_heads + g;
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads / kWarp) + threadIdx.x / kWarp;
  if (i >= entries) return;
  const int slot = assigned[bg * entries + i], from = source[bg * entries + i];
  if (slot < 0 || from < 0) return;
  const int64_t bytes = slots.slot_bytes();
  const std::byte* keys = rebuilt + (bg * candidates + from) * bytes;
  std::byte* to = slots.keys(batch.rows[b], g, slot);
  const int lane = threadIdx.x % kWarp;
  if (bytes % 16 == 0) {
    constexpr int kAhead = 4;
    for (int64_t base = lane; base < bytes / 16; base += kWarp * kAhead) {
      Bf16x8 held[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int64_t v = base + j * kWarp;
        if (v < bytes / 16) held[j] = Bf16x8::load(keys + 16 * v);
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int64_t v = base + j * kWarp;
        if (v < bytes / 16) held[j].store(to + 16 * v);
      }
    }
    return;
  }
  for (int64_t v = 2 * lane; v < bytes; v += 2 * kWarp) {
    *reinterpret_cast<uint16_t*>(to + v) = *reinterpret_cast<const uint16_t*>(keys + v);
  }
}

}  // namespace

void find_slots(Queue& queue, const FindSlotsParams& p) {
  constexpr const char* kOp = "find_slots";
  find_slots_kernel<<<grid_x(p.batch.size * p.slots.kv_heads, kOp), kThreads, 0, stream_of(queue)>>>(
      FindParams(p));
  check_launch(kOp);
}

void assign_slots(Queue& queue, const AssignSlotsParams& p) {
  constexpr const char* kOp = "assign_slots";
  assign_slots_kernel<<<grid_x(p.batch.size * p.slots.kv_heads, kOp), kThreads, 0, stream_of(queue)>>>(
      AssignParams(p));
  check_launch(kOp);
}

void fill_keys(Queue& queue, const FillKeysParams& p) {
  constexpr const char* kOp = "fill_keys";
  const int64_t entries = p.assigned.shape[2];
  const dim3 grid(grid_x(ceil_div<int64_t>(entries, kThreads / kWarp), kOp), grid_yz(p.slots.kv_heads, kOp),
                  grid_yz(p.batch.size, kOp));
  fill_keys_kernel<<<grid, kThreads, 0, stream_of(queue)>>>(p.batch, device_ptr<int32_t>(p.assigned),
                                                            device_ptr<int32_t>(p.source), p.rebuilt.data,
                                                            p.slots, entries, p.rebuilt.shape[2]);
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
