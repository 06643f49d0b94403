// What the ops' checks share: which types an operand may have on the queue's device.
#pragma once

#include <fmt/core.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/device.h"
#include "base/tensor.h"

namespace shadowkv {

// float32 on the CPU, bfloat16 on a GPU.
[[nodiscard]] inline DType activation_dtype(const Queue& queue) {
  return queue.kind() == DeviceKind::cuda ? DType::bf16 : DType::f32;
}

// Throws InvalidInput "op: weight holds int8, expected float32 or bfloat16".
inline void check_dtype(std::string_view op, std::string_view name, DType found,
                        std::initializer_list<DType> allowed) {
  std::string names;
  for (const DType dtype : allowed) {
    if (found == dtype) return;
    names += fmt::format("{}{}", names.empty() ? "" : " or ", name_of(dtype));
  }
  throw InvalidInput(fmt::format("{}: {} holds {}, expected {}", op, name, name_of(found), names));
}

inline void check_activation(std::string_view op, const Queue& queue, std::string_view name,
                             const TensorView& tensor, std::initializer_list<Extent> shape) {
  check_shape(op, name, tensor, shape);
  check_dtype(op, name, tensor.dtype, {activation_dtype(queue)});
}

inline void check_tensor(std::string_view op, std::string_view name, const TensorView& tensor, DType dtype,
                         std::initializer_list<Extent> shape) {
  check_shape(op, name, tensor, shape);
  check_dtype(op, name, tensor.dtype, {dtype});
}

}  // namespace shadowkv
