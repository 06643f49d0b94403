// x weight^T for few tokens by a kernel of ours on Hopper, otherwise by cuBLASLt: rows of out are columns of
// its column-major c, weight^T is a, x is b. Codes are widened for it, as many rows at a time as scratch
// holds. Bound: bytes of the weight for few tokens, floating-point operations for many.
#include <algorithm>
#include <vector>

#include "kernels/cuda/matmul_any.h"
#include "kernels/cuda/matmul_few.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/widen_codes.h"
#include "kernels/twins.h"

namespace shadowkv::cuda {
namespace {

bool run_few(Queue& queue, const FewTokens::Call& call) {
  return device_of(queue).state<FewTokens>().run(queue, call);
}

bool run_products(Queue& queue, const MatmulParams& params) {
  if (params.x.dtype != params.weight.dtype) return false;
  ProductShape shape;
  shape.m = shape.ldc = params.weight.shape[0];
  shape.n = params.x.shape[0];
  shape.k = shape.lda = shape.ldb = params.x.shape[1];
  shape.transpose_a = true;
  shape.inputs = params.weight.dtype;
  shape.output = params.out.dtype;
  return device_of(queue).state<Products>().run(
      queue, shape, {params.weight.data, params.x.data, params.out.data, params.accumulate});
}

// Codes are streamed some tokens at a time where that takes fewer bytes than widening them would.
constexpr int64_t kMostStreamed = 256;

bool stream_codes(Queue& queue, const FewTokens::Call& call) {
  const int64_t tokens = call.x.shape[0];
  if (tokens > kMostStreamed) return false;
  for (int64_t first = 0; first < tokens; first += FewTokens::kMostTokens) {
    const int64_t count = std::min(FewTokens::kMostTokens, tokens - first);
    std::vector<MatmulGroupParams::Product> products(call.products.begin(), call.products.end());
    for (auto& product : products) product.out = product.out.rows(first, count);
    if (!run_few(queue, {call.x.rows(first, count), products, call.accumulate})) return false;
  }
  return true;
}

// False, with nothing done, where cuBLASLt has no kernel.
bool run_widened(Queue& queue, const MatmulParams& params) {
  constexpr int64_t kRows = 64;  // are taken together
  const int64_t outputs = params.weight.shape[0], inputs = params.weight.shape[1];
  const int64_t most = scratch_bytes_of(queue) / (inputs * size_of(DType::bf16)) / kRows * kRows;
  if (most == 0) return false;
  std::byte* widened = scratch_of(queue, std::min(most, outputs) * inputs * size_of(DType::bf16), "matmul");
  for (int64_t first = 0; first < outputs; first += most) {
    const int64_t count = std::min(most, outputs - first);
    widen_codes(queue, params.weight, first, count, widened);
    ProductShape shape;
    shape.m = count;
    shape.ldc = outputs;
    shape.n = params.x.shape[0];
    shape.k = shape.lda = shape.ldb = inputs;
    shape.transpose_a = true;
    shape.output = params.out.dtype;
    const ProductOperands operands{widened, params.x.data,
                                   params.out.data + first * size_of(params.out.dtype), params.accumulate};
    if (device_of(queue).state<Products>().run(queue, shape, operands)) continue;
    demand(first == 0, "matmul", "cuBLASLt has a kernel for some rows of a matrix and for others none");
    return false;
  }
  return true;
}

void multiply_codes(Queue& queue, const MatmulParams& params) {
  const MatmulGroupParams::Product product{params.weight, params.out, params.bias};
  if (stream_codes(queue, {params.x, {&product, 1}, params.accumulate})) return;
  if (!run_widened(queue, params)) launch_any_matmul(queue, params);
  if (!params.bias.empty()) launch_add_bias(queue, params);
}

}  // namespace

void matmul(Queue& queue, const MatmulParams& params) {
  if (params.out.elements() == 0) return;
  if (params.weight.quantized()) return multiply_codes(queue, params);
  const MatmulGroupParams::Product product{params.weight, params.out, params.bias};
  if (run_few(queue, {params.x, {&product, 1}, params.accumulate})) return;
  if (!run_products(queue, params)) launch_any_matmul(queue, params);
  if (!params.bias.empty()) launch_add_bias(queue, params);
}

// Products that are not taken together go side by side on the device's lanes, as small ones alone do not keep
// a GPU busy: those of lane 0. Work on other lanes is beside something already, which it would wait for.
void matmul_group(Queue& queue, const MatmulGroupParams& params) {
  const FewTokens::Call call{params.x, params.products, false};
  const bool codes = !params.products.empty() && params.products[0].weight.quantized();
  if (codes ? stream_codes(queue, call) : run_few(queue, call)) return;
  CudaDevice& device = device_of(queue);
  std::vector<Queue*> queues;
  for (std::size_t i = 0; i < params.products.size(); ++i) {
    const int lane = &queue == &device.compute() ? static_cast<int>(i) % device.lanes() : 0;
    queues.push_back(lane == 0 ? &queue : &device.lane(lane).compute);
    if (queues.back() != &queue) queues.back()->wait_for(queue);
  }
  for (std::size_t i = 0; i < params.products.size(); ++i) {
    const auto& [weight, out, bias] = params.products[i];
    cuda::matmul(*queues[i], {.x = params.x, .weight = weight, .bias = bias, .out = out});
  }
  for (Queue* other : queues) {
    if (other != &queue) queue.wait_for(*other);
  }
}

}  // namespace shadowkv::cuda
