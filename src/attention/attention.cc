#include "attention/attention.h"

#include <cmath>

#include "attention/methods.h"
#include "attention/shadow_index.h"
#include "base/check.h"

namespace shadowkv {

float AttentionShape::scale() const {
  const double of_pairs = rope.magnitude * rope.magnitude;
  return static_cast<float>(of_pairs / std::sqrt(static_cast<double>(head_dim)));
}

DType storage_dtype(StorageType type, DType compute) {
  switch (type) {
    case StorageType::automatic:
      return compute;
    case StorageType::float32:
      return DType::f32;
    case StorageType::bfloat16:
      return DType::bf16;
    case StorageType::int8:
      return DType::i8;
  }
  return compute;
}

int64_t block_tokens_for(int64_t chunk) {
  constexpr int64_t kBlockTokens = 512;
  return kBlockTokens / chunk * chunk;
}

std::unique_ptr<Attention> make_attention(const AttentionConfig& config, const AttentionShape& shape,
                                          std::shared_ptr<ExactPrefill> prefill, Device& device) {
  require(shape.heads % shape.kv_heads == 0 && shape.head_dim % 8 == 0 && shape.head_dim <= 256,
          "attention over {} query heads, {} KV heads of {} is not supported; head_dim must be a multiple of "
          "8 up to "
          "256 and query heads a multiple of KV heads",
          shape.heads, shape.kv_heads, shape.head_dim);
  if (config.method == Method::full) return make_full(config, shape, std::move(prefill), device);
  if (config.dense_layers > 0) return make_dense_first(config, shape, std::move(prefill), device);
  return make_shadow(config, shape, std::move(prefill), device);
}

}  // namespace shadowkv
