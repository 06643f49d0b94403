// A model's matrices in device memory, in the compute type or as int8 codes. Quantised files are expanded
// while loading.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "base/device.h"
#include "base/tensor.h"
#include "kernels/matrix.h"
#include "model/config.h"

namespace shadowkv {

// Matrices are [outputs, inputs]; norms and biases are float32.
// Empty: what the model does not have.
struct LayerWeights {
  TensorView attention_norm;       // [hidden]
  Matrix wq;                       // [heads * head_dim, hidden]
  Matrix wk;                       // [kv_heads * head_dim, hidden]
  Matrix wv;                       // [kv_heads * head_dim, hidden]
  TensorView bq;                   // [heads * head_dim], or empty
  TensorView bk;                   // [kv_heads * head_dim], or empty
  TensorView bv;                   // [kv_heads * head_dim], or empty
  TensorView q_norm;               // [head_dim], or empty
  TensorView k_norm;               // [head_dim], or empty
  Matrix wo;                       // [hidden, heads * head_dim]
  TensorView post_attention_norm;  // [hidden], or empty
  TensorView mlp_norm;             // [hidden]
  Matrix gate;                     // [inner, hidden]
  Matrix up;                       // [inner, hidden]
  Matrix down;                     // [hidden, inner]
  TensorView post_mlp_norm;        // [hidden], or empty
};

struct ModelWeights {
  Matrix embedding;       // [vocab, hidden]
  TensorView final_norm;  // [hidden]
  Matrix lm_head;         // [vocab, hidden]; the embedding itself when tied
  std::vector<LayerWeights> layers;
  std::vector<Buffer> storage;  // owns everything above
};

using LoadProgress = std::function<void(double share)>;  // 0..1; may throw Interrupted

struct LoadedModel {
  ModelConfig config;
  ModelWeights weights;
};

// path: a .gguf file, or a Hugging Face folder with config.json and .safetensors files.
// matrices: float32, bfloat16, or int8 (a scale a row). Throws InvalidInput for a tensor that is missing,
// misshapen, of an unsupported type, or has no use, all of them named, and for a number that is not finite;
// OutOfMemory before anything is read when it does not fit.
[[nodiscard]] LoadedModel load_model(const std::filesystem::path& path, DType matrices, Device& device,
                                     const LoadProgress& progress = {});

// Random weights of the right sizes and scales, for benchmarks: same seed, same weights.
[[nodiscard]] ModelWeights random_weights(const ModelConfig& config, DType matrices, Device& device,
                                          uint64_t seed);

}  // namespace shadowkv
