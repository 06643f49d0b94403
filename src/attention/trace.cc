#include "attention/trace.h"

#include <algorithm>

#include "base/check.h"

namespace shadowkv {

std::vector<float> read_numbers(Queue& queue, const TensorView& from) {
  const auto count = static_cast<std::size_t>(from.elements());
  std::vector<float> numbers(count);
  if (from.dtype == DType::f32) {
    queue.copy(numbers.data(), from.data, from.bytes());
    queue.synchronize();
    return numbers;
  }
  require(from.dtype == DType::bf16, "numbers of type {} were to be read back", name_of(from.dtype));
  std::vector<bf16> stored(count);
  queue.copy(stored.data(), from.data, from.bytes());
  queue.synchronize();
  std::transform(stored.begin(), stored.end(), numbers.begin(), [](bf16 x) { return static_cast<float>(x); });
  return numbers;
}

KeyError key_error(const KeptKey& key) {
  KeyError sums;
  const std::size_t width = key.x.size();
  for (std::size_t i = 0; i < width; ++i) {
    const double centred = double{key.x[i]} - key.mean[i];
    double kept = 0;
    for (std::size_t r = 0; r < key.factors.size(); ++r) {
      kept += double{key.factors[r]} * key.basis[r * width + i];
    }
    sums.energy += centred * centred;
    sums.error += (centred - kept) * (centred - kept);
  }
  return sums;
}

void append_positions(std::vector<int32_t>& positions, int64_t first, int64_t count) {
  for (int64_t i = 0; i < count; ++i) positions.push_back(static_cast<int32_t>(first + i));
}

LayerTrace trace_exact(ExactStore& store, const AttentionShape& shape, Device& device, const TensorView& q,
                       int64_t layer, int64_t row, int64_t tokens) {
  Queue& queue = device.compute();
  LayerTrace trace{.q = read_numbers(queue, q), .attended = {}, .k = {}, .v = {}};
  trace.attended.resize(static_cast<std::size_t>(shape.kv_heads));
  for (std::vector<int32_t>& positions : trace.attended) append_positions(positions, 0, tokens);
  const DType type = device.activation_dtype();
  const int64_t bytes = tokens * shape.kv_width() * size_of(type);
  const Buffer memory = device.allocate(Tier::device, Purpose::prompts, 2 * bytes);
  const auto part = [&](int64_t first) {
    return TensorView(memory.data() + first, type, {tokens, shape.kv_heads, shape.head_dim});
  };
  store.load(layer, row, part(0), part(bytes));
  trace.k = read_numbers(queue, part(0));
  trace.v = read_numbers(queue, part(bytes));
  return trace;
}

}  // namespace shadowkv
