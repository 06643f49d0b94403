// x weight^T by cuBLASLt: rows of out are columns of its column-major c, weight^T is a, x is b. Bound: bytes
// of the weight for few tokens, floating-point operations for many.
#include "kernels/cuda/matmul_any.h"
#include "kernels/cuda/products.h"
#include "kernels/twins.h"

namespace shadowkv::cuda {

void matmul(Queue& queue, const MatmulParams& params) {
  const int64_t tokens = params.x.shape[0], inputs = params.x.shape[1], outputs = params.weight.shape[0];
  if (tokens == 0 || outputs == 0) return;
  ProductShape shape;
  shape.m = outputs;
  shape.n = tokens;
  shape.k = shape.lda = shape.ldb = inputs;
  shape.ldc = outputs;
  shape.transpose_a = true;
  shape.inputs = params.weight.dtype;
  shape.output = params.out.dtype;
  const bool same_type = params.x.dtype == params.weight.dtype;
  if (!same_type ||
      !device_of(queue).state<Products>().run(
          queue, shape, {params.weight.data, params.x.data, params.out.data, params.accumulate})) {
    launch_any_matmul(queue, params);
  }
  if (!params.bias.empty()) launch_add_bias(queue, params);
}

}  // namespace shadowkv::cuda
