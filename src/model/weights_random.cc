// Random weights for measurements: every number is a function of the seed, its tensor and its place alone, so
// the number of threads changes nothing.
#include <cmath>
#include <vector>

#include "base/check.h"
#include "model/weights_plan.h"

namespace shadowkv {
namespace {

// The finaliser of splitmix64: a bijection whose every output bit depends on every input bit.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

template <typename T>
void put(std::byte* out, int64_t index, float value) {
  reinterpret_cast<T*>(out)[index] = T(value);
}

// Numbers [first, first + count) of the stream `key`, uniform in [-limit, limit).
template <typename T>
void draw(uint64_t key, int64_t first, int64_t count, float limit, std::byte* out) {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  const float scale = limit * 0x1p-31f;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = mix(key + static_cast<uint64_t>(first + i) * kStep);
    put<T>(out, i, static_cast<float>(static_cast<int32_t>(bits >> 32)) * scale);
  }
}

// The numbers that draw<float>() gives, as codes.
void draw_codes(uint64_t key, int64_t columns, float limit, const WeightFiller::Rows& rows) {
  std::vector<float> row(static_cast<std::size_t>(columns));
  for (int64_t i = 0; i < rows.count; ++i) {
    draw<float>(key, (rows.first + i) * columns, columns, limit, reinterpret_cast<std::byte*>(row.data()));
    rows.scales[i] =
        quantize_matrix_row(row.data(), columns, reinterpret_cast<int8_t*>(rows.numbers) + i * columns);
  }
}

constexpr float kBiasLimit = 0.5f;

}  // namespace

ModelWeights random_weights(const ModelConfig& config, DType matrices, Device& device, uint64_t seed) {
  validate(config);
  const std::vector<PlannedWeight> plan = plan_weights(config, matrices);
  ModelWeights weights = allocate_weights(config, plan, device);
  WeightFiller filler(device, total_bytes(plan), {});
  for (std::size_t i = 0; i < plan.size(); ++i) {
    const PlannedWeight& weight = plan[i];
    const uint64_t key = mix(seed + mix(i + 1));
    // A uniform number in [-a, a) has standard deviation a / sqrt(3); 1 / sqrt(inputs) keeps activations'
    // size.
    const auto limit = static_cast<float>(std::sqrt(3.0 / static_cast<double>(weight.columns)));
    filler.fill(weight, weights.storage[i].data(), [&](const WeightFiller::Rows& rows) {
      const int64_t first = rows.first * weight.columns, count = rows.count * weight.columns;
      if (weight.is_bias()) {
        draw<float>(key, 0, count, kBiasLimit, rows.numbers);
      } else if (!weight.rows) {
        for (int64_t j = 0; j < count; ++j) put<float>(rows.numbers, j, 1.0f);
      } else if (weight.dtype == DType::f32) {
        draw<float>(key, first, count, limit, rows.numbers);
      } else if (weight.dtype == DType::bf16) {
        draw<bf16>(key, first, count, limit, rows.numbers);
      } else {
        draw_codes(key, weight.columns, limit, rows);
      }
    });
  }
  filler.finish();
  return weights;
}

}  // namespace shadowkv
