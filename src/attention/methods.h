// What the methods' own files offer to the factory.
#pragma once

#include "attention/attention.h"

namespace shadowkv {

// shape: of the layers that they are to attend, which may be fewer than the prefill's. config must be
// resolved.
[[nodiscard]] std::unique_ptr<Attention> make_full(const AttentionConfig& config, const AttentionShape& shape,
                                                   std::shared_ptr<ExactPrefill> prefill, Device& device);
[[nodiscard]] std::unique_ptr<Attention> make_shadow(const AttentionConfig& config,
                                                     const AttentionShape& shape,
                                                     std::shared_ptr<ExactPrefill> prefill, Device& device);
// The first config.dense_layers layers as full attention has them, the others as the method does.
[[nodiscard]] std::unique_ptr<Attention> make_dense_first(const AttentionConfig& config,
                                                          const AttentionShape& shape,
                                                          std::shared_ptr<ExactPrefill> prefill,
                                                          Device& device);

// automatic means the compute type.
[[nodiscard]] DType storage_dtype(StorageType type, DType compute);

}  // namespace shadowkv
