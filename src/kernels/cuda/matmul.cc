// x weight^T for few tokens by a kernel of ours on Hopper, otherwise by cuBLASLt: rows of out are columns of
// its column-major c, weight^T is a, x is b. Bound: bytes of the weight for few tokens, floating-point
// operations for many.
#include "kernels/cuda/matmul_any.h"
#include "kernels/cuda/matmul_few.h"
#include "kernels/cuda/products.h"
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

}  // namespace

void matmul(Queue& queue, const MatmulParams& params) {
  if (params.out.elements() == 0) return;
  const MatmulGroupParams::Product product{params.weight, params.out, params.bias};
  if (run_few(queue, {params.x, {&product, 1}, params.accumulate})) return;
  if (!run_products(queue, params)) launch_any_matmul(queue, params);
  if (!params.bias.empty()) launch_add_bias(queue, params);
}

// Products that are not taken together go side by side on the device's lanes, as small ones alone do not keep
// a GPU busy: those of lane 0. Work on other lanes is beside something already, which it would wait for.
void matmul_group(Queue& queue, const MatmulGroupParams& params) {
  if (run_few(queue, {params.x, params.products, false})) return;
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
