// A contiguous, row-major view of memory that someone else owns, and named shape checks over it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/dtype.h"

namespace shadowkv {

struct TensorView {
  static constexpr int kMaxRank = 4;

  std::byte* data = nullptr;  // on the device of the queue that the op runs on
  DType dtype = DType::f32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};

  TensorView() = default;
  TensorView(void* memory, DType type, std::initializer_list<int64_t> extents);

  [[nodiscard]] bool empty() const { return data == nullptr; }
  [[nodiscard]] int64_t elements() const;
  [[nodiscard]] int64_t bytes() const { return elements() * size_of(dtype); }
  [[nodiscard]] int64_t row_elements() const;  // elements of one entry of the first dimension

  // The memory as T; throws InvalidInput if the view holds another type.
  template <typename T>
  [[nodiscard]] T* as() const {
    check_dtype(DTypeOf<T>::value);
    return reinterpret_cast<T*>(data);
  }

  // Entries [first, first + count) of the first dimension.
  [[nodiscard]] TensorView rows(int64_t first, int64_t count) const;
  // The same memory under another shape of as many elements.
  [[nodiscard]] TensorView reshaped(std::initializer_list<int64_t> extents) const;

  [[nodiscard]] std::string describe() const;  // "float32 [12, 8, 64]"

 private:
  void check_dtype(DType wanted) const;
};

// One expected extent: a name for the message and a size; size < 0 takes any.
struct Extent {
  std::string_view name;
  int64_t size = -1;
};

// Throws InvalidInput "op: k is float32 [12, 4, 64], expected [tokens=12, kv_heads=8, head_dim=64]".
void check_shape(std::string_view op, std::string_view name, const TensorView& tensor,
                 std::initializer_list<Extent> expected);

}  // namespace shadowkv
