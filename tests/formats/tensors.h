// Tensors of an untrusted file, read to their last byte.
#pragma once

#include <optional>
#include <vector>

#include "formats/dequantize.h"

namespace shadowkv::testing {

template <typename Tensor>
void read_all(const Tensor& tensor, std::optional<Encoding> encoding) {
  if (!encoding) return;
  const BlockLayout layout = layout_of(*encoding);
  std::vector<float> out(tensor.data.size() / static_cast<std::size_t>(layout.bytes) *
                         static_cast<std::size_t>(layout.elements));
  dequantize(*encoding, tensor.data, out);
}

}  // namespace shadowkv::testing
