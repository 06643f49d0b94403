// Encodes keys into the sketch, a warp a token and KV head. Bound: bytes of the keys.
#include "kernels/cuda/sketch.cuh"

namespace shadowkv::cuda {
namespace {

constexpr int kEncodeWarps = 8;

__device__ uint32_t code_of(float y, float root_mean_square, int bits) {
  const bool positive = y >= 0.0f, inner = fabsf(y) < root_mean_square;
  if (bits == 1) return positive ? 1u : 0u;
  return positive ? (inner ? 2u : 3u) : (inner ? 1u : 0u);
}

// One warp a token and head.
template <int kNumbers, typename T>
__global__ void __launch_bounds__(kEncodeWarps* kWarp)
    encode_kernel(const T* k, TokenBatch tokens, SketchView sketch, SketchLayout layout, int64_t heads,
                  int head_dim) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kEncodeWarps) + threadIdx.x / kWarp;
  if (i >= tokens.count * heads) return;
  const int lane = threadIdx.x % kWarp, bits = static_cast<int>(sketch.bits);
  const int64_t t = i / heads, g = i % heads, row = tokens.rows[t], position = tokens.positions[t];
  const auto* centre = reinterpret_cast<const float*>(sketch.centre.at(row, g, position));
  float y[kNumbers];
#pragma unroll
  for (int j = 0; j < kNumbers; ++j) {
    const int d = lane + j * kWarp;
    y[j] = d < head_dim ? to_float(k[i * head_dim + d]) - centre[d] : 0.0f;
  }
  turn_sketch(y, head_dim);
  float squares = 0.0f;
#pragma unroll
  for (float x : y) squares += x * x;
  squares = warp_reduce(squares, Sum());
  const float root_mean_square = sqrtf(squares / static_cast<float>(head_dim));
  uint32_t* words = sketch_block_of(sketch.words, row, g, position);
  const int64_t token = position % sketch.words.block_tokens;
  const int plane = static_cast<int>(sketch_plane_words(head_dim));
  float along = 0.0f;
#pragma unroll
  for (int j = 0; j < kNumbers; ++j) {
    if (j >= plane) break;
    const bool held = lane + j * kWarp < head_dim;
    const uint32_t code = held ? code_of(y[j], root_mean_square, bits) : 0u;
    const int level = 2 * static_cast<int>(code) - ((1 << bits) - 1);
    along += held ? y[j] * static_cast<float>(level) : 0.0f;
    for (int b = 0; b < bits; ++b) {
      const uint32_t word = __ballot_sync(kAllLanes, ((code >> b) & 1u) != 0);
      if (lane == 0) *sketch_word_at(words, layout, token, b * plane + j) = word;
    }
  }
  along = warp_reduce(along, Sum());
  if (lane != 0) return;
  *reinterpret_cast<Bf16*>(sketch.scales.at(row, g, position)) =
      __float2bfloat16_rn(along > 0.0f ? squares / along : 0.0f);
}

}  // namespace

void sketch_encode(Queue& queue, const SketchEncodeParams& p) {
  constexpr const char* kOp = "sketch_encode";
  const int64_t heads = p.k.shape[1], head_dim = p.k.shape[2];
  demand_head_dim(head_dim, kOp);
  const SketchLayout layout = sketch_layout(p.sketch, head_dim);
  const unsigned blocks = grid_x(ceil_div<int64_t>(p.tokens.count * heads, kEncodeWarps), kOp);
  with_number_type(p.k.dtype, kOp, [&](auto* type) {
    with_lane_numbers(head_dim, [&](auto numbers) {
      constexpr int kNumbers = decltype(numbers)::value;
      using T = std::remove_pointer_t<decltype(type)>;
      encode_kernel<kNumbers, T><<<blocks, kEncodeWarps * kWarp, 0, stream_of(queue)>>>(
          device_ptr<T>(p.k), p.tokens, p.sketch, layout, heads, static_cast<int>(head_dim));
    });
  });
  check_launch(kOp);
}

}  // namespace shadowkv::cuda
