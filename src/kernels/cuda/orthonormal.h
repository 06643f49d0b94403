// Orthonormal rows out of rows that are independent, or nearly: Cholesky's decomposition of their products,
// in float64.
#pragma once

#include "kernels/cuda/launch.h"

namespace shadowkv::cuda {

struct OrthonormalRows {
  float* rows;  // [count, width], replaced
  int64_t count;
  int64_t width;
  double* work;  // orthonormal_work_numbers() numbers
};

[[nodiscard]] int64_t orthonormal_work_numbers(int64_t count, int64_t width);
// Row i becomes a combination of rows 0 .. i. Exact to float32 where no row lies nearer than 1e-6 of the
// largest row's length to those before it; nearer ones come out shorter than they should, so repeat it.
void launch_orthonormalise(Queue& queue, const OrthonormalRows& p, const char* op);

}  // namespace shadowkv::cuda
