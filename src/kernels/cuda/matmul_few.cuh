// The kernel of matmul_few.cu. Weights are streamed once, by tensor copies into a ring of up to 220 KiB a
// multiprocessor, so that far more bytes are on their way than the latency of memory asks for; one warp sends
// for them, one for the tokens, four warpgroups multiply 64 rows of a stage each with the tokens as columns.
// Clusters of blocks take even shares of the rows, all of them at once, so that all multiprocessors end
// together; where a weight is too small for tall shares, the blocks of a cluster cut the inputs among them
// and add their sums, in the order of the inputs, through each other's shared memory. Codes become bfloat16
// in registers, which the products take them from; their scales come with the sums. Bound: bytes of the
// weights.
#pragma once

#include <cuda.h>

#include "kernels/cuda/bulk_copies.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace shadowkv::cuda::few_tokens {

inline constexpr int kUnitRows = 8;  // what rows are counted in
inline constexpr int kUnitBytes = kUnitRows * kTileRowBytes;
inline constexpr int kGroups = 4;                         // warpgroups that multiply
inline constexpr int kGroupUnits = 8;                     // of a product
inline constexpr int kMostUnits = kGroups * kGroupUnits;  // of a pass
inline constexpr int kMultipliers = kGroups * kWarpgroup;
inline constexpr int kThreads = kMultipliers + 2 * kWarp;
inline constexpr int kMostStages = 16;
inline constexpr int kRingBytes = 220 << 10;  // of 227 KiB
inline constexpr int kSharedBytes = kRingBytes + int{kTileAlignment};
inline constexpr int kMostProducts = 3;
inline constexpr int kDepth = 2;  // tiles of a step of the inputs
inline constexpr int kStepInputs = kDepth * kTileColumns;
static_assert(kStepInputs == kTileRowBytes);  // codes of a step are one tile

constexpr int row_tiles(bool codes) {
  return codes ? 1 : kDepth;
}

// Tiles of rows, then kDepth of tokens.
constexpr int stage_bytes(int units, int tokens, bool codes) {
  return row_tiles(codes) * units * kUnitBytes + kDepth * tokens * kTileRowBytes;
}

struct Params {
  CUtensorMap weights[kMostProducts];  // in boxes of pass_units and a tile's columns
  CUtensorMap x;                       // in boxes of kTokens and kTileColumns
  std::byte* outs[kMostProducts];
  const float* biases[kMostProducts];  // null: none
  const float* scales[kMostProducts];  // of codes
  int64_t rows[kMostProducts];
  int first_clusters[kMostProducts + 1];  // of each weight, and how many there are
  int tokens;
  int steps;  // of kStepInputs
  int passes, pass_units;
  int stages;
  DType out_type;
  bool accumulate;
};

// ---- clusters ---------------------------------------------------------------------------------------------

__device__ inline int cluster_rank() {
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return rank;
}
__device__ inline int cluster_size() {
  int size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;\n" : "=r"(size));
  return size;
}
// Like __syncthreads() for all blocks of the cluster.
__device__ inline void cluster_sync() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory");
}
// To where `address` is in the shared memory of another block of the cluster.
__device__ inline void store_to_block(int rank, uint32_t address, float x) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "st.shared::cluster.f32 [there], %2;\n"
      "}\n" ::"r"(address),
      "r"(rank), "f"(x)
      : "memory");
}

// ---- what a block does ------------------------------------------------------------------------------------

// Rows of one weight, in passes, and steps of the inputs.
struct Share {
  int product;
  int first_row, rows;
  int first_step, steps;

  __device__ explicit Share(const Params& p) {
    const int size = cluster_size(), rank = cluster_rank(), cluster = static_cast<int>(blockIdx.x) / size;
    product = (cluster >= p.first_clusters[1] ? 1 : 0) + (cluster >= p.first_clusters[2] ? 1 : 0);
    const int own = cluster - p.first_clusters[product];
    const int all = p.first_clusters[product + 1] - p.first_clusters[product];
    const int64_t units = ceil_div<int64_t>(p.rows[product], kUnitRows);
    first_row = static_cast<int>(units * own / all) * kUnitRows;
    const int64_t end = units * (own + 1) / all * kUnitRows;
    rows = static_cast<int>(end < p.rows[product] ? end : p.rows[product]) - first_row;
    first_step = p.steps * rank / size;
    steps = p.steps * (rank + 1) / size - first_step;
  }
};

// A stage holds a step of a pass: tiles of rows, then of tokens.
template <int kTokens, bool kCodes>
struct Ring {
  static constexpr int kTokenBytes = kTokens * kTileRowBytes;  // of a tile
  static constexpr int kRowTiles = row_tiles(kCodes);

  uint32_t memory;
  uint32_t pass_bytes;  // of a tile of rows
  uint64_t *full, *empty;
  int stages;
  int stage = 0;
  uint32_t parity = 0;

  __device__ uint32_t rows(int tile) const { return memory + stage * stage_bytes() + tile * pass_bytes; }
  __device__ uint32_t tokens(int tile) const { return rows(kRowTiles) + tile * kTokenBytes; }
  __device__ uint32_t stage_bytes() const { return kRowTiles * pass_bytes + kDepth * kTokenBytes; }
  __device__ void wait_full() const { wait_for_phase(&full[stage], parity); }
  __device__ void wait_empty() const { wait_for_phase(&empty[stage], parity ^ 1); }
  __device__ void advance() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// ---- the warps that send ----------------------------------------------------------------------------------

// For copies of what is read once a step: it leaves the L2 cache first, so that what is needed again stays
// (6.46 -> 6.31 ms a step of one sequence).
__device__ inline uint64_t leaves_first() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0;\n" : "=l"(policy));
  return policy;
}

// A box of the matrix whose first number is at [row, column]; zeros where it leaves the matrix.
__device__ inline void copy_box(uint32_t to, const CUtensorMap& matrix, int column, int row,
                                uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];\n" ::"r"(to),
      "l"(&matrix), "r"(column), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

// The same with a policy for the L2 cache.
__device__ inline void copy_box(uint32_t to, const CUtensorMap& matrix, int column, int row,
                                uint64_t* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, "
      "{%2, %3}], [%4], %5;\n" ::"r"(to),
      "l"(&matrix), "r"(column), "r"(row), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}

// One thread; weights do not wait for the kernel before. Every pass brings pass_units, the last one some of
// the next block's.
template <int kTokens, bool kCodes>
__device__ inline void send_weights(const Params& p, const Share& share, Ring<kTokens, kCodes> ring) {
  constexpr int kTiles = row_tiles(kCodes);
  const CUtensorMap& weight = p.weights[share.product];
  const uint64_t policy = leaves_first();
  int row = share.first_row;
  for (int pass = 0; pass < p.passes; ++pass, row += p.pass_units * kUnitRows) {
    int column = share.first_step * kStepInputs;
    for (int step = 0; step < share.steps; ++step, ring.advance()) {
      ring.wait_empty();
      expect_bytes(&ring.full[ring.stage], kTiles * ring.pass_bytes);
#pragma unroll
      for (int d = 0; d < kTiles; ++d, column += kStepInputs / kTiles)
        copy_box(ring.rows(d), weight, column, row, &ring.full[ring.stage], policy);
    }
  }
}

// One thread. Tokens that there are not are zero.
template <int kTokens, bool kCodes>
__device__ inline void send_tokens(const Params& p, const Share& share, Ring<kTokens, kCodes> ring) {
  for (int pass = 0; pass < p.passes; ++pass) {
    int column = share.first_step * kStepInputs;
    for (int step = 0; step < share.steps; ++step, ring.advance()) {
      ring.wait_empty();
      expect_bytes(&ring.full[ring.stage], kDepth * kTokens * kTileRowBytes);
#pragma unroll
      for (int d = 0; d < kDepth; ++d, column += kTileColumns)
        copy_box(ring.tokens(d), p.x, column, 0, &ring.full[ring.stage]);
    }
  }
}

// ---- the warpgroups that multiply -------------------------------------------------------------------------

#if SHADOWKV_WARPGROUPS
// Two codes as bfloat16 numbers: bytes 0 and 1 of a word of codes plus 128, or 2 and 3. Behind 0x43 the upper
// half of the bytes reads as 256 + 2 code, the lower as 256 + code: w, less 256, is twice a code that is not
// negative. One operation on integers a pair, which run at half the rate of those on numbers; volatile, or
// they would be moved behind waits for products that they run beside.
template <int kFirst>
__device__ inline uint32_t widen_pair(uint32_t shifted) {
  constexpr uint32_t kHalf = 0x3f003f00, kMinus128 = 0xc300c300, k256 = 0x43804380;
  const uint32_t read = __byte_perm(shifted, 0x43434343, kFirst == 0 ? 0x4140 : 0x4342);
  uint32_t pair;
  asm volatile(
      "{\n"
      ".reg .b32 half, w;\n"
      "fma.rn.relu.bf16x2 half, %1, %2, %3;\n"
      "sub.rn.bf16x2 w, %1, %4;\n"
      "sub.rn.bf16x2 %0, w, half;\n"
      "}\n"
      : "=r"(pair)
      : "r"(read), "r"(kHalf), "r"(kMinus128), "r"(k256));
  return pair;
}

template <int kTokens, bool kCodes>
class Multiplier {
 public:
  __device__ explicit Multiplier(int warp) : warp_(warp), lane_(static_cast<int>(threadIdx.x) % kWarp) {
    clear();
  }
  // One pass over the block's inputs. rows: of the pass.
  __device__ void multiply(Ring<kTokens, kCodes>& ring, int steps, int rows) {
    const bool has_rows = warp_ / 4 * kGroupUnits * kUnitRows < rows;
    if constexpr (kCodes) {
      multiply_codes(ring, steps, has_rows);
    } else {
      multiply_numbers(ring, steps, has_rows);
    }
  }
  // body(row of the pass, token, sum)
  template <typename Body>
  __device__ void take_sums(const Body& body) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < kTokens / 8; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j)
          body(warp_ * 16 + half * 8 + lane_ / 4, 8 * i + lane_ % 4 * 2 + j, sums_[i][2 * half + j]);
    clear();
  }

 private:
  static constexpr int kProducts = kTileColumns / 16;  // of a tile of tokens

  __device__ void multiply_numbers(Ring<kTokens, kCodes>& ring, int steps, bool has_rows) {
    const int group = warp_ / 4;
    for (int step = 0; step < steps; ++step, ring.advance()) {
      ring.wait_full();
      if (has_rows) {
        begin_products();
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
          const uint64_t weight = tile_at(ring.rows(d) + group * kGroupUnits * kUnitBytes);
          const uint64_t tokens = tile_at(ring.tokens(d));
#pragma unroll
          for (int k = 0; k < kTileColumns / 16; ++k)
            multiply_rows<kTokens>(sums_, weight + 2 * k, tokens + 2 * k);
        }
        finish_products();
      }
      __syncwarp();
      if (lane_ == 0) arrive_at(&ring.empty[ring.stage]);
    }
  }
  // 64 codes of each of the warp's 16 rows, the first or second half of a tile, as operands.
  __device__ void load_codes(uint32_t rows, int half, uint32_t (&held)[kProducts][4]) const {
    const uint32_t row = rows + (warp_ * 16 + lane_ % 16) * kTileRowBytes;
#pragma unroll
    for (int i = 0; i < kProducts / 2; ++i) {
      const int piece = 4 * half + 2 * i + lane_ / 16;
      uint32_t words[4];
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                   : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                   : "r"(row + (piece ^ lane_ % 8) * 16)
                   : "memory");
#pragma unroll
      for (uint32_t& word : words) word ^= 0x80808080u;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        held[2 * i + j][0] = widen_pair<0>(words[2 * j]);
        held[2 * i + j][1] = widen_pair<0>(words[2 * j + 1]);
        held[2 * i + j][2] = widen_pair<2>(words[2 * j]);
        held[2 * i + j][3] = widen_pair<2>(words[2 * j + 1]);
      }
    }
  }
  __device__ void send_half(uint32_t tokens, const uint32_t (&held)[kProducts][4]) {
    const uint64_t tile = tile_at(tokens);
    begin_products();
#pragma unroll
    for (int k = 0; k < kProducts; ++k) multiply_held<kTokens>(sums_, held[k], tile + 2 * k);
    send_products();
  }
  // One half becomes operands while the products of the other run: a wait comes after the next products, or
  // the compiler would move it before what is to run beside them.
  __device__ void multiply_codes(Ring<kTokens, kCodes>& ring, int steps, bool has_rows) {
    int last = -1;  // the stage whose second products may still run
    for (int step = 0; step < steps; ++step, ring.advance()) {
      ring.wait_full();
      if (!has_rows) {
        release(ring, ring.stage);
        continue;
      }
      uint32_t first[kProducts][4], second[kProducts][4];
      load_codes(ring.rows(0), 0, first);
      send_half(ring.tokens(0), first);
      wait_for_products<1>();
      if (last >= 0) release(ring, last);
      load_codes(ring.rows(0), 1, second);
      send_half(ring.tokens(1), second);
      wait_for_products<1>();
      last = ring.stage;
    }
    wait_for_products<0>();
    if (last >= 0) release(ring, last);
  }
  __device__ void release(const Ring<kTokens, kCodes>& ring, int stage) const {
    __syncwarp();
    if (lane_ == 0) arrive_at(&ring.empty[stage]);
  }
  __device__ void clear() {
#pragma unroll
    for (auto& four : sums_)
#pragma unroll
      for (float& sum : four) sum = 0.0f;
  }

  int warp_, lane_;
  float sums_[kTokens / 8][4];
};

template <bool kCodes>
__device__ inline void write_sum(const Params& p, int product, int64_t row, int token, float sum) {
  const int64_t i = token * p.rows[product] + row;
  if constexpr (kCodes) sum *= __ldg(p.scales[product] + row);
  if (p.biases[product] != nullptr) sum += __ldg(p.biases[product] + row);
  if (p.accumulate) sum += read_number(p.outs[product], p.out_type, i);
  write_number(p.outs[product], p.out_type, i, sum);
}

// Sums of a cluster's blocks: each adds `slice` rows of all blocks' sums, [blocks, kTokens, pitch] in its
// shared memory, in the order of the blocks.
template <int kTokens, bool kCodes>
__device__ inline void add_over_cluster(const Params& p, const Share& share, bool multiplies,
                                        Multiplier<kTokens, kCodes>& multiplier, std::byte* memory) {
  const int rank = cluster_rank(), blocks = cluster_size();
  const int slice = round_up(ceil_div(share.rows, blocks), 8);
  const int pitch = slice + 4;  // two tokens on is eight banks on
  const uint32_t parts = shared_address(memory);
  wait_for_earlier_kernel();  // the warp that sends weights has not yet
  cluster_sync();             // all rings are free
  if (multiplies) {
    multiplier.take_sums([&](int row, int token, float sum) {
      if (row < share.rows && token < p.tokens)
        store_to_block(row / slice, parts + 4 * ((rank * kTokens + token) * pitch + row % slice), sum);
    });
  }
  cluster_sync();
  const auto* part = reinterpret_cast<const float*>(memory);
  for (int i = static_cast<int>(threadIdx.x); i < p.tokens * slice; i += kThreads) {
    const int token = i / slice, row = rank * slice + i % slice;
    if (row >= share.rows) continue;
    float sum = part[token * pitch + i % slice];
    for (int b = 1; b < blocks; ++b) sum += part[(b * kTokens + token) * pitch + i % slice];
    write_sum<kCodes>(p, share.product, share.first_row + row, token, sum);
  }
}
#endif

template <int kTokens, bool kCodes>
__global__ void __launch_bounds__(kThreads, 1)
    few_tokens_kernel([[maybe_unused]] const __grid_constant__ Params p) {
#if SHADOWKV_WARPGROUPS
  extern __shared__ std::byte raw[];
  __shared__ uint64_t full[kMostStages], empty[kMostStages];
  std::byte* memory = raw + (round_up(shared_address(raw), kTileAlignment) - shared_address(raw));
  if (threadIdx.x == 0) {
    for (int i = 0; i < p.stages; ++i) {
      init_barrier(&full[i], 2);
      init_barrier(&empty[i], kMultipliers / kWarp);
    }
    publish_barriers();
  }
  __syncthreads();
  let_next_kernel_start();
  const Share share(p);
  Ring<kTokens, kCodes> ring{shared_address(memory), static_cast<uint32_t>(p.pass_units * kUnitBytes), full,
                             empty, p.stages};
  const int warp = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0);
  const bool splits_inputs = cluster_size() > 1;
  const bool multiplies = warp < kMultipliers / kWarp;
  Multiplier<kTokens, kCodes> multiplier(warp);
  if (warp == kMultipliers / kWarp) {
    if (is_elected()) send_weights(p, share, ring);
  } else if (!multiplies) {
    wait_for_earlier_kernel();
    if (is_elected()) send_tokens(p, share, ring);
  } else {
    wait_for_earlier_kernel();
    for (int pass = 0; pass < p.passes; ++pass) {
      const int pass_rows = p.pass_units * kUnitRows, before = pass * pass_rows;
      const int rows = min(share.rows - before, pass_rows);
      multiplier.multiply(ring, share.steps, rows);
      if (splits_inputs) break;
      multiplier.take_sums([&](int row, int token, float sum) {
        if (row < rows && token < p.tokens)
          write_sum<kCodes>(p, share.product, share.first_row + before + row, token, sum);
      });
    }
  }
  if (splits_inputs) add_over_cluster(p, share, multiplies, multiplier, memory);
#endif
}

}  // namespace shadowkv::cuda::few_tokens
