// A model's matrices in device memory, in the compute type. Quantised files are expanded while loading.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "base/device.h"
#include "base/tensor.h"
#include "model/config.h"

namespace shadowkv {

// Matrices are [outputs, inputs] in the compute type (float32 or bfloat16); norms and biases are float32.
// Empty: what the model does not have.
struct LayerWeights {
  TensorView attention_norm;       // [hidden]
  TensorView wq;                   // [heads * head_dim, hidden]
  TensorView wk;                   // [kv_heads * head_dim, hidden]
  TensorView wv;                   // [kv_heads * head_dim, hidden]
  TensorView bq;                   // [heads * head_dim], or empty
  TensorView bk;                   // [kv_heads * head_dim], or empty
  TensorView bv;                   // [kv_heads * head_dim], or empty
  TensorView q_norm;               // [head_dim], or empty
  TensorView k_norm;               // [head_dim], or empty
  TensorView wo;                   // [hidden, heads * head_dim]
  TensorView post_attention_norm;  // [hidden], or empty
  TensorView mlp_norm;             // [hidden]
  TensorView gate;                 // [inner, hidden]
  TensorView up;                   // [inner, hidden]
  TensorView down;                 // [hidden, inner]
  TensorView post_mlp_norm;        // [hidden], or empty
};

struct ModelWeights {
  TensorView embedding;   // [vocab, hidden]
  TensorView final_norm;  // [hidden]
  TensorView lm_head;     // [vocab, hidden]; the embedding itself when tied
  std::vector<LayerWeights> layers;
  std::vector<Buffer> storage;  // owns everything above
};

using LoadProgress = std::function<void(double share)>;  // 0..1; may throw Interrupted

struct LoadedModel {
  ModelConfig config;
  ModelWeights weights;
};

// path: a .gguf file, or a Hugging Face folder with config.json and .safetensors files.
// dtype: float32 or bfloat16. Throws InvalidInput for a tensor that is missing, misshapen, of an unsupported
// type, or has no use, all of them named, and for a number that is not finite; OutOfMemory before anything is
// read when it does not fit.
[[nodiscard]] LoadedModel load_model(const std::filesystem::path& path, DType dtype, Device& device,
                                     const LoadProgress& progress = {});

// Random weights of the right sizes and scales, for benchmarks: same seed, same weights.
[[nodiscard]] ModelWeights random_weights(const ModelConfig& config, DType dtype, Device& device,
                                          uint64_t seed);

}  // namespace shadowkv
