// Rebuilding a tile of 16 tokens by one warp, once factors and basis are in shared memory: products on tensor
// cores, turning, rounding, writing, scoring.
#pragma once

#include "kernels/cuda/query_tile.cuh"
#include "kernels/cuda/rebuild_items.cuh"
#include "kernels/cuda/turns.cuh"

namespace shadowkv::cuda {

// ---- multiplying ------------------------------------------------------------------------------------------

// Four codes as bfloat16, exactly: 128 and the low seven bits, less 128 or, where the sign is set, 256.
__device__ inline uint32_t widen_pair(uint32_t biased) {
  const uint32_t number = biased & 0xff7fff7fu, less = biased & 0xff80ff80u;
  const __nv_bfloat162 x = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&number),
                                   *reinterpret_cast<const __nv_bfloat162*>(&less));
  return *reinterpret_cast<const uint32_t*>(&x);
}
__device__ inline void widen(uint32_t codes, uint32_t& low, uint32_t& high) {
  low = widen_pair(__byte_perm(codes, 0x43434343u, 0x4140));
  high = widen_pair(__byte_perm(codes, 0x43434343u, 0x4342));
}

// The operand of 16 rows by 16 numbers. Products do not mind the order of their terms: lane 4 g + t takes
// numbers 4 t .. 4 t + 3 of rows g and g + 8 as its columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9.
template <bool kCodes>
__device__ void read_factors(const std::byte* row, int stride, uint32_t (&a)[4]) {
  if constexpr (kCodes) {
    widen(*reinterpret_cast<const uint32_t*>(row), a[0], a[2]);
    widen(*reinterpret_cast<const uint32_t*>(row + 8 * stride), a[1], a[3]);
  } else {
    const uint2 low = *reinterpret_cast<const uint2*>(row);
    const uint2 high = *reinterpret_cast<const uint2*>(row + 8 * stride);
    a[0] = low.x, a[2] = low.y, a[1] = high.x, a[3] = high.y;
  }
}

template <int kDim>
using Sums = float[Shape<kDim>::kTiles][4];

// sums += factors basis for a tile.
template <int kDim, bool kCodes>
__device__ void multiply(const RebuildParams& p, const std::byte* tile, const Bf16* basis, Sums<kDim>& sums) {
  constexpr int kStride = Shape<kDim>::kStride;
  const int lane = threadIdx.x % kWarp;
  const std::byte* row = tile + lane / 4 * p.factor_stride + lane % 4 * (kCodes ? 4 : 8);
  // The row of the basis that this lane addresses, in the order of place_of(); the second eight of each pair
  // in the upper lanes.
  const Bf16* own = basis + lane % 16 * kStride + lane / 16 * 8;
#pragma unroll 2
  for (int k = 0; k < p.panel; k += 16) {
    uint32_t a[4], b[2][4];
    load_matrices_transposed(b[0], own + k * kStride);
    read_factors<kCodes>(row + k * (kCodes ? 1 : 2), p.factor_stride, a);
#pragma unroll
    for (int i = 0; i < Shape<kDim>::kTiles; i += 2) {
      const uint32_t(&now)[4] = b[i / 2 % 2];
      if (i + 2 < Shape<kDim>::kTiles) {  // one pair ahead
        load_matrices_transposed(b[(i / 2 + 1) % 2], own + k * kStride + (i + 2) * 8);
      }
      const uint32_t first[2] = {now[0], now[1]}, second[2] = {now[2], now[3]};
      mma_16x8x16(sums[i], a, first);
      mma_16x8x16(sums[i + 1], a, second);
    }
  }
}

// ---- finishing in registers -------------------------------------------------------------------------------

// What a lane needs to know of its rows lane / 4 and lane / 4 + 8.
struct OwnRows {
  int position[2];
  int out_row[2];
  float scale[2];

  __device__ explicit OwnRows(const Row& loaded) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int from = (lane / 4 + 8 * half) * kSharers;
      position[half] = __shfl_sync(kAllLanes, loaded.position, from);
      out_row[half] = __shfl_sync(kAllLanes, loaded.out_row, from);
      scale[half] = __uint_as_float(__shfl_sync(kAllLanes, uint32_t{loaded.scale}, from) << 16);
    }
  }
};

// One lane's keys as pairs of bfloat16, by half of the rows and eight columns.
template <int kDim>
using Words = uint32_t[2][Shape<kDim>::kTiles];

// Pairs half a head apart: eights i and i + kTiles / 2 hold both numbers of a pair.
template <int kDim>
__device__ void turn_halves(const float* mean, const Frequency* frequencies, const OwnRows& rows,
                            const Sums<kDim>& sums, Words<kDim>& words) {
  constexpr int kTurned = Shape<kDim>::kTiles / 2;
#pragma unroll
  for (int i = 0; i < kTurned; ++i) {
    const int d = i * 8 + threadIdx.x % 4 * 2;
    const float2 low = *reinterpret_cast<const float2*>(mean + d);
    const float2 high = *reinterpret_cast<const float2*>(mean + d + Shape<kDim>::kHalf);
    const uint4 both = *reinterpret_cast<const uint4*>(frequencies + d);
    const Frequency first{both.x, both.y}, second{both.z, both.w};
    const float(&a)[4] = sums[i], (&b)[4] = sums[i + kTurned];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = rows.scale[half];
      const float2 x = make_float2(fmaf(a[2 * half], scale, low.x), fmaf(b[2 * half], scale, high.x));
      const float2 y = make_float2(fmaf(a[2 * half + 1], scale, low.y), fmaf(b[2 * half + 1], scale, high.y));
      const float2 u = product(x, first.turn(rows.position[half]));
      const float2 v = product(y, second.turn(rows.position[half]));
      words[half][i] = pack_bf16(u.x, v.x);
      words[half][i + kTurned] = pack_bf16(u.y, v.y);
    }
  }
}

// Pairs side by side: each lane's two columns of an eight.
template <int kDim>
__device__ void turn_neighbours(const float* mean, const Frequency* frequencies, const OwnRows& rows,
                                const Sums<kDim>& sums, Words<kDim>& words) {
#pragma unroll
  for (int i = 0; i < Shape<kDim>::kTiles; ++i) {
    const int d = i * 8 + threadIdx.x % 4 * 2;
    const float2 centre = *reinterpret_cast<const float2*>(mean + d);
    const Frequency frequency = frequencies[d / 2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = rows.scale[half];
      const float2 x =
          make_float2(fmaf(sums[i][2 * half], scale, centre.x), fmaf(sums[i][2 * half + 1], scale, centre.y));
      const float2 u = product(x, frequency.turn(rows.position[half]));
      words[half][i] = pack_bf16(u.x, u.y);
    }
  }
}

// Neighbouring lanes swap, so that each holds four columns of one of two eights and a row's 8-byte pieces
// fill whole sectors of 32 bytes.
template <int kDim>
__device__ void write_words(std::byte* out, const OwnRows& rows, const Words<kDim>& words) {
  const int lane = threadIdx.x % kWarp, odd = lane % 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    std::byte* to = out + (int64_t{rows.out_row[half]} * kDim + odd * 8 + lane % 4 / 2 * 4) * 2;
#pragma unroll
    for (int i = 0; i < Shape<kDim>::kTiles; i += 2) {
      const uint32_t a = words[half][i], b = words[half][i + 1];
      const uint32_t other = __shfl_xor_sync(kAllLanes, odd != 0 ? a : b, 1);
      const uint2 four = odd != 0 ? make_uint2(other, b) : make_uint2(a, other);
      if (rows.out_row[half] >= 0) *reinterpret_cast<uint2*>(to + i * 16) = four;
    }
  }
}

// ---- scoring ----------------------------------------------------------------------------------------------

// The KV head's queries as operands, by asynchronous copies: of 16 numbers, lane 4 g + t holds 2 t, 2 t + 1
// and 2 t + 8, 2 t + 9 of query head g.
template <int kDim>
__device__ void load_queries(const RebuildParams& p, int64_t bg, uint2* queries) {
  const auto* q = reinterpret_cast<const uint32_t*>(p.scores.q + bg * p.scores.group * kDim);
  for (int i = threadIdx.x; i < kDim / 16 * kWarp; i += kThreads) {
    const int head = i % kWarp / 4, at = head * kDim / 2 + i / kWarp * 8 + i % 4;
    const bool held = head < p.scores.group;
    copy_async_4(&queries[i].x, q + (held ? at : 0), held);
    copy_async_4(&queries[i].y, q + (held ? at + 4 : 0), held);
  }
}

// Scores of a tile's chunks from its keys as they are written: lane 4 g + t gets products of tokens g and
// g + 8 with heads 2 t and 2 t + 1, then the log-sum-exp over the lanes whose tokens share a chunk.
template <int kDim>
__device__ void score_tile(const RebuildParams& p, std::byte* memory, int64_t bg, const OwnRows& rows,
                           const Words<kDim>& words) {
  const auto* queries = p.shared<const uint2>(memory, &SharedPlan::queries);
  const int lane = threadIdx.x % kWarp;
  float parts[2][4] = {};  // so that one product need not wait for the last
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    const uint2 both = queries[i * kWarp + lane];
    const uint32_t keys[4] = {words[0][2 * i], words[1][2 * i], words[0][2 * i + 1], words[1][2 * i + 1]};
    const uint32_t query[2] = {both.x, both.y};
    mma_16x8x16(parts[i % 2], keys, query);
  }
  const int lanes = 4 * (p.chunk < 8 ? p.chunk : 8);
  const bool whole = p.chunk == kTile;  // then both halves of a tile are one chunk
  float products[4], largest[4], sums[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    largest[i] = products[i] = (parts[0][i] + parts[1][i]) * p.scores.scale;
  }
  if (whole) {
#pragma unroll
    for (int i = 0; i < 2; ++i) largest[i] = largest[i + 2] = fmaxf(largest[i], largest[i + 2]);
  }
  for (int step = 4; step < lanes; step *= 2) {
#pragma unroll
    for (float& x : largest) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[i] = fast_exp2(products[i] - largest[i]);
  if (whole) {
#pragma unroll
    for (int i = 0; i < 2; ++i) sums[i] = sums[i + 2] = sums[i] + sums[i + 2];
  }
  for (int step = 4; step < lanes; step *= 2) {
#pragma unroll
    for (float& x : sums) x += __shfl_xor_sync(kAllLanes, x, step);
  }
  if ((lane & (lanes - 4)) != 0) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (rows.out_row[half] < 0 || (whole && half > 0)) continue;
    const int head = lane % 4 * 2;
    float* to = p.scores.out + (bg * p.scores.group + head) * p.candidates + p.by_chunk(rows.out_row[half]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (head + i >= p.scores.group) continue;
      to[i * p.candidates] = (largest[2 * half + i] + log2f(sums[2 * half + i])) * kLn2;
    }
  }
}

// Bytes of a warp's tile of keys as they are stored, [16, head_dim * 2 + 16 bytes]: rows meet all banks.
template <int kDim>
inline constexpr int kKeyRoom = kTile * (kDim * 2 + 16);

// Scores of candidates [first, first + 32) that nobody rebuilds, by one warp: -infinity for absent ones; keys
// in slots come to this warp's room (kKeyRoom) and go the way of rebuilt ones, so that it
// makes no difference, not even in the last bit, where a key lies.
template <int kDim>
__device__ void score_others(const RebuildParams& p, std::byte* memory, int64_t b, int64_t g, int first,
                             std::byte* room) {
  constexpr int kStride = kDim * 2 + 16;
  const int lane = threadIdx.x % kWarp, own = first + lane;
  const int64_t bg = b * p.kv_heads + g, chunk_bytes = int64_t{p.chunk} * kDim * 2;
  const bool absent = own >= p.candidates || p.scores.chunks[bg * p.candidates + own] < 0;
  const int slot = absent ? -1 : p.scores.found[bg * p.candidates + own];
  float* scores = p.scores.out + bg * p.scores.group * p.candidates + own;
  for (int h = 0; h < p.scores.group && absent && own < p.candidates; ++h) {
    scores[h * p.candidates] = kMinusInfinity;
  }
  const std::byte* keys = p.scores.slots.keys(p.batch.rows[b], g, 0);
  const int row = lane / kSharers, nth = p.by_chunk(row), token = row - nth * p.chunk;
  for (unsigned left = __ballot_sync(kAllLanes, slot >= 0); left != 0;) {
    int from = -1;  // the lane whose candidate this lane's row belongs to
    for (int i = 0; i < p.by_chunk(kTile); ++i, left &= left - 1) {
      if (i == nth) from = __ffs(static_cast<int>(left)) - 1;
    }
    const int held = __shfl_sync(kAllLanes, slot, from & (kWarp - 1));
    const std::byte* key = keys + held * chunk_bytes + token * kDim * 2;
    for (int v = lane % kSharers; v < kDim / 8; v += kSharers) {
      copy_async_16(room + row * kStride + 16 * v, key + 16 * v, from >= 0);
    }
    commit_copies();
    wait_for_copies<0>();
    __syncwarp();
    Words<kDim> words;
#pragma unroll
    for (int i = 0; i < Shape<kDim>::kTiles; i += 2) {
      uint32_t a[4];
      load_matrices(a, room + lane % 16 * kStride + (i + lane / 16) * 16);
      words[0][i] = a[0], words[1][i] = a[1], words[0][i + 1] = a[2], words[1][i + 1] = a[3];
    }
    Row found{0, from < 0 ? -1 : (first + from) * p.chunk + token, kUnitScale, nullptr};
    score_tile<kDim>(p, memory, bg, OwnRows(found), words);
    __syncwarp();
  }
}

// ---- finishing in memory ----------------------------------------------------------------------------------

// Turns and writes a tile by way of this warp's float32 keys [16, D + 8].
template <int kDim>
__device__ void finish_in_memory(const RebuildParams& p, std::byte* memory, int64_t bg, const Row& loaded,
                                 const Sums<kDim>& sums) {
  constexpr int kStride = Shape<kDim>::kKeyStride;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const auto* mean = p.shared<const float>(memory, &SharedPlan::mean);
  float* keys = p.shared<float>(memory, &SharedPlan::keys) + warp * kTile * kStride;
  const OwnRows rows(loaded);
#pragma unroll
  for (int i = 0; i < Shape<kDim>::kTiles; ++i) {
    const int d = i * 8 + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* to = keys + (lane / 4 + 8 * half) * kStride + d;
      to[0] = fmaf(sums[i][2 * half], rows.scale[half], mean[d]);
      to[1] = fmaf(sums[i][2 * half + 1], rows.scale[half], mean[d + 1]);
    }
  }
  __syncwarp();
  const int half = static_cast<int>(p.rope.rotary_dim / 2);
  const int step = p.rope.interleaved ? 2 : 1, apart = p.rope.interleaved ? 1 : half;
  const float* frequencies = p.rope.frequencies(p.batch.rows[bg / p.kv_heads]);
  for (int t = 0; t < kTile; ++t) {
    const int position = __shfl_sync(kAllLanes, loaded.position, t * kSharers);
    const int out_row = __shfl_sync(kAllLanes, loaded.out_row, t * kSharers);
    if (out_row < 0) continue;
    float* key = keys + t * kStride;
    for (int pair = lane; pair < half; pair += kWarp) {
      float* a = key + pair * step;
      const float2 turned = product(make_float2(a[0], a[apart]), turn_of(position, frequencies[pair]));
      a[0] = turned.x;
      a[apart] = turned.y;
    }
    __syncwarp();
    const int64_t to = (bg * p.candidates * p.chunk + out_row) * kDim;
    for (int d = lane; d < kDim; d += kWarp) write_number(p.out, p.out_dtype, to + d, key[d]);
  }
  __syncwarp();
}
template <int kDim, Turning kTurning>
__device__ void finish(const RebuildParams& p, std::byte* memory, int64_t bg, const Row& loaded,
                       const Sums<kDim>& sums) {
  if constexpr (kTurning == Turning::in_memory) {
    finish_in_memory<kDim>(p, memory, bg, loaded, sums);
  } else {
    const OwnRows rows(loaded);
    const auto* mean = p.shared<const float>(memory, &SharedPlan::mean);
    const auto* frequencies = p.shared<const Frequency>(memory, &SharedPlan::frequencies);
    Words<kDim> words;
    if constexpr (kTurning == Turning::halves) {
      turn_halves<kDim>(mean, frequencies, rows, sums, words);
    } else {
      turn_neighbours<kDim>(mean, frequencies, rows, sums, words);
    }
    write_words<kDim>(p.out + bg * p.candidates * p.chunk * kDim * 2, rows, words);
    if (p.scores.out != nullptr) score_tile<kDim>(p, memory, bg, rows, words);
  }
}

}  // namespace shadowkv::cuda
