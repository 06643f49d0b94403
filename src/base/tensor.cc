#include "base/tensor.h"

#include <algorithm>

#include "base/check.h"

namespace shadowkv {

TensorView::TensorView(void* memory, DType type, std::initializer_list<int64_t> extents)
    : data(static_cast<std::byte*>(memory)), dtype(type), rank(static_cast<int>(extents.size())) {
  require(rank <= kMaxRank, "a tensor of rank {} was asked for, at most {} is supported", rank, kMaxRank);
  std::copy(extents.begin(), extents.end(), shape.begin());
}

int64_t TensorView::elements() const {
  int64_t product = rank > 0 ? 1 : 0;
  for (int i = 0; i < rank; ++i) product *= shape[static_cast<std::size_t>(i)];
  return product;
}

int64_t TensorView::row_elements() const {
  int64_t product = 1;
  for (int i = 1; i < rank; ++i) product *= shape[static_cast<std::size_t>(i)];
  return product;
}

TensorView TensorView::rows(int64_t first, int64_t count) const {
  if (rank <= 0 || first < 0 || count < 0 || first + count > shape[0]) {
    throw InvalidInput(fmt::format("rows [{}, {}) of {} were asked for", first, first + count, describe()));
  }
  TensorView part = *this;
  part.data += first * row_elements() * size_of(dtype);
  part.shape[0] = count;
  return part;
}

TensorView TensorView::reshaped(std::initializer_list<int64_t> extents) const {
  TensorView other(data, dtype, extents);
  if (other.elements() != elements()) {
    throw InvalidInput(fmt::format("{} cannot be seen as {}", describe(), other.describe()));
  }
  return other;
}

std::string TensorView::describe() const {
  std::string text = fmt::format("{} [", name_of(dtype));
  for (int i = 0; i < rank; ++i)
    text += fmt::format("{}{}", i ? ", " : "", shape[static_cast<std::size_t>(i)]);
  return text + "]";
}

void TensorView::check_dtype(DType wanted) const {
  if (dtype == wanted) return;  // every op asks: no text unless it is needed
  throw InvalidInput(fmt::format("a {} view was read as {}", describe(), name_of(wanted)));
}

void check_shape(std::string_view op, std::string_view name, const TensorView& tensor,
                 std::initializer_list<Extent> expected) {
  bool same = tensor.rank == static_cast<int>(expected.size());
  std::size_t i = 0;
  for (const Extent& extent : expected) {
    same = same && (extent.size < 0 || tensor.shape[i] == extent.size);
    ++i;
  }
  if (same) return;
  std::string wanted;
  for (const Extent& extent : expected) {
    wanted += fmt::format("{}{}", wanted.empty() ? "" : ", ", extent.name);
    if (extent.size >= 0) wanted += fmt::format("={}", extent.size);
  }
  throw InvalidInput(fmt::format("{}: {} is {}, expected [{}]", op, name, tensor.describe(), wanted));
}

}  // namespace shadowkv
