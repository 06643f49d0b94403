#include <algorithm>

#include "kernels/cuda/matmul_few.cuh"
#include "kernels/cuda/matmul_few.h"

namespace shadowkv::cuda {
namespace {

using few_tokens::kMostProducts;
using few_tokens::Params;
using Kernel = void (*)(Params);

constexpr const char* kOp = "matmul";

using Encode = decltype(&cuTensorMapEncodeTiled);

void* find_encode() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  check_cuda(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
      kOp);
  return result == cudaDriverEntryPointSuccess ? found : nullptr;
}

// A matrix in boxes of box_rows and a tile's columns, as tiles lie in shared memory.
CUtensorMap map_of(void* encode, const TensorView& matrix, int box_rows) {
  CUtensorMap map{};
  const bool codes = matrix.dtype == DType::i8;
  const auto rows = static_cast<cuuint64_t>(matrix.shape[0]);
  const auto columns = static_cast<cuuint64_t>(matrix.shape[1]);
  const auto number_bytes = static_cast<cuuint32_t>(size_of(matrix.dtype));
  const cuuint64_t extents[] = {columns, rows}, stride = columns * number_bytes;
  const cuuint32_t box[] = {kTileRowBytes / number_bytes, static_cast<cuuint32_t>(box_rows)},
                   steps[] = {1, 1};
  const CUresult result = reinterpret_cast<Encode>(encode)(
      &map, codes ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, matrix.data, extents,
      &stride, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  demand(result == CUDA_SUCCESS, kOp, "the driver refuses to describe a matrix for tensor copies");
  return map;
}

// False where this was not compiled for the device: the kernel is empty then, and has no barriers.
bool has_body(Kernel kernel) {
  cudaFuncAttributes attributes{};
  check_cuda(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)), kOp);
  return attributes.sharedSizeBytes > 0;
}

// A launch in clusters, which may be set up while the kernel before it still runs.
struct ClusterLaunch {
  std::array<cudaLaunchAttribute, 2> attributes{};
  cudaLaunchConfig_t config{};

  ClusterLaunch(int clusters, int cluster, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = static_cast<unsigned>(cluster);
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = static_cast<unsigned>(clusters * cluster);
    config.blockDim = few_tokens::kThreads;
    config.dynamicSmemBytes = few_tokens::kSharedBytes;
    config.stream = stream;
    config.attrs = attributes.data();
    config.numAttrs = static_cast<unsigned>(attributes.size());
  }
  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;
};

int clusters_at_once(Kernel kernel, int cluster) {
  const ClusterLaunch launch(1, cluster, nullptr);
  int clusters = 0;
  check_cuda(cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch.config), kOp);
  return clusters;
}

// Blocks of a cluster: two where one block's share of the rows would be less than kTallUnits; the tokens'
// bytes, which every cluster reads, are few beside those of a tall share.
constexpr int kMostCluster = 2;
constexpr int kTallUnits = 8;

// Measured on an H200 with 4096 inputs (14336 for down) beside cuBLASLt: 14336 and more rows gain up to 64
// tokens (gate and up 61 -> 53 us at 1, 64 -> 58 at 43), 4096 rows up to 15 (13 -> 11.7; 15 against 12 at
// 43), several weights of few rows up to 64 (q, k and v 26 -> 14 at 1, 25 -> 22 at 43).
// Codes have only the way by widened rows beside it.
constexpr int64_t kMostTokensOfClusters = 16;  // of one weight

int64_t units_of(const TensorView& weight) {
  return ceil_div<int64_t>(weight.shape[0], few_tokens::kUnitRows);
}

}  // namespace

struct FewTokens::Size {
  int tokens;
  Kernel kernel;
};

// From the weights' shapes alone, so that the sums of a token are the same in any batch.
struct FewTokens::Plan {
  int cluster = 1;                            // blocks
  std::array<int, kMostProducts> clusters{};  // of each weight
  int units = 0;                              // of the largest share
};

FewTokens::FewTokens(CudaDevice& device) {
  if (device.shared_bytes_per_block() < few_tokens::kSharedBytes ||
      !has_body(few_tokens::few_tokens_kernel<8, false>))
    return;
  encode_ = find_encode();
  if (encode_ == nullptr) return;
  const auto sizes_for = [](auto codes) -> std::vector<Size> {
    using few_tokens::few_tokens_kernel;
    constexpr bool kCodes = decltype(codes)::value;
    return {{8, few_tokens_kernel<8, kCodes>},   {16, few_tokens_kernel<16, kCodes>},
            {24, few_tokens_kernel<24, kCodes>}, {32, few_tokens_kernel<32, kCodes>},
            {48, few_tokens_kernel<48, kCodes>}, {64, few_tokens_kernel<64, kCodes>}};
  };
  sizes_ = sizes_for(std::false_type());
  code_sizes_ = sizes_for(std::true_type());
  for (const auto* sizes : {&sizes_, &code_sizes_}) {
    for (const Size& size : *sizes) allow_shared(size.kernel, few_tokens::kSharedBytes, kOp);
  }
  for (int cluster = 1; cluster <= kMostCluster; cluster *= 2)
    clusters_[static_cast<size_t>(cluster)] = clusters_at_once(sizes_[0].kernel, cluster);
}

FewTokens::~FewTokens() = default;

bool FewTokens::takes(const Call& call) const {
  const auto fits = [](const TensorView& view, DType dtype) {
    return view.dtype == dtype && view.shape[1] * size_of(dtype) % 16 == 0 && is_aligned_16(view.data);
  };
  const DType stored =
      !call.products.empty() && call.products[0].weight.quantized() ? DType::i8 : DType::bf16;
  if (sizes_.empty() || call.x.shape[0] > kMostTokens || call.x.shape[1] < kTileColumns ||
      !fits(call.x, DType::bf16))
    return false;
  return !call.products.empty() && call.products.size() <= kMostProducts &&
         std::all_of(call.products.begin(), call.products.end(), [&](const auto& product) {
           return product.weight.shape[0] > 0 && product.weight.shape[0] < (1 << 30) &&
                  fits(product.weight, stored) && product.out.dtype == call.products[0].out.dtype;
         });
}

// Each cluster in turn goes to the weight whose shares are the largest.
FewTokens::Plan FewTokens::plan_of(const Call& call) const {
  const auto count = call.products.size();
  std::array<int64_t, kMostProducts> units{};
  int64_t all = 0;
  for (size_t i = 0; i < count; ++i) all += units[i] = units_of(call.products[i].weight);
  Plan plan;
  while (plan.cluster < kMostCluster && all < kTallUnits * clusters_[static_cast<size_t>(plan.cluster)])
    plan.cluster *= 2;
  const int64_t clusters = std::min<int64_t>(clusters_[static_cast<size_t>(plan.cluster)], all);
  const auto share = [&](size_t i) {
    return plan.clusters[i] == 0 ? all : ceil_div<int64_t>(units[i], plan.clusters[i]);
  };
  for (int64_t used = 0; used < std::max<int64_t>(clusters, std::ssize(call.products)); ++used) {
    size_t largest = 0;
    for (size_t i = 1; i < count; ++i) {
      if (share(i) > share(largest)) largest = i;
    }
    ++plan.clusters[largest];
  }
  for (size_t i = 0; i < count; ++i) plan.units = std::max(plan.units, static_cast<int>(share(i)));
  return plan;
}

Params FewTokens::params_of(const Call& call, const Plan& plan, int tokens) const {
  using namespace few_tokens;
  Params p{};
  p.passes = ceil_div(plan.units, kMostUnits);
  p.pass_units = ceil_div(plan.units, p.passes);
  // Products of 64 rows read past a shorter tile: past the ring's last as well.
  const int beyond = round_up(p.pass_units, kGroupUnits) - p.pass_units;
  const bool codes = call.products[0].weight.quantized();
  p.stages =
      std::min(kMostStages, (kRingBytes - beyond * kUnitBytes) / stage_bytes(p.pass_units, tokens, codes));
  for (size_t i = 0; i < kMostProducts; ++i) {
    p.first_clusters[i + 1] = p.first_clusters[i] + plan.clusters[i];
    if (i >= call.products.size()) continue;
    const auto& [weight, out, bias] = call.products[i];
    p.weights[i] = map_of(encode_, weight, p.pass_units * kUnitRows);
    p.outs[i] = out.data;
    p.biases[i] = bias.empty() ? nullptr : device_ptr<float>(bias);
    p.scales[i] = codes ? device_ptr<float>(weight.scales) : nullptr;
    p.rows[i] = weight.shape[0];
  }
  p.x = map_of(encode_, call.x, tokens);
  p.tokens = static_cast<int>(call.x.shape[0]);
  p.steps = static_cast<int>(ceil_div<int64_t>(call.x.shape[1], kStepInputs));
  p.out_type = call.products[0].out.dtype;
  p.accumulate = call.accumulate;
  return p;
}

bool FewTokens::run(Queue& queue, const Call& call) const {
  if (!takes(call)) return false;
  const Plan plan = plan_of(call);
  // Clusters add their sums after one pass; a share beyond it takes a device of few multiprocessors.
  const bool one_pass = plan.units <= few_tokens::kMostUnits;
  const bool codes = call.products[0].weight.quantized();
  const int64_t most = codes || call.products.size() > 1 ? kMostTokens : kMostTokensOfClusters;
  if (plan.cluster > 1 && (!one_pass || call.x.shape[0] > most)) return false;
  const std::vector<Size>& sizes = codes ? code_sizes_ : sizes_;
  const Size& size =
      *std::find_if(sizes.begin(), sizes.end(), [&](const Size& s) { return call.x.shape[0] <= s.tokens; });
  const Params params = params_of(call, plan, size.tokens);
  const ClusterLaunch launch(params.first_clusters[kMostProducts], plan.cluster, stream_of(queue));
  check_cuda(cudaLaunchKernelEx(&launch.config, size.kernel, params), kOp);
  return true;
}

}  // namespace shadowkv::cuda
