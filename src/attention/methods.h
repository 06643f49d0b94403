// What the methods' own files offer to the factory.
#pragma once

#include "attention/attention.h"

namespace shadowkv {

[[nodiscard]] std::unique_ptr<Attention> make_full(const AttentionConfig& config,
                                                   std::shared_ptr<ExactPrefill> prefill, Device& device);
// config must be resolved.
[[nodiscard]] std::unique_ptr<Attention> make_shadow(const AttentionConfig& config,
                                                     std::shared_ptr<ExactPrefill> prefill, Device& device);

// automatic means the compute type.
[[nodiscard]] DType storage_dtype(StorageType type, DType compute);

}  // namespace shadowkv
