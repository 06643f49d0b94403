// What a model is, as data: sizes, parts, positions and special tokens. Families differ here and in the rows
// of families.cc, nowhere else.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "attention/rope.h"

namespace shadowkv {

class GgufFile;

constexpr int64_t kMostContext = int64_t{1} << 31;  // tokens

struct ModelConfig {
  std::string architecture;  // "llama": a family of families.h
  std::string name;          // as the file calls itself, for people
  int64_t vocab_size = 0;
  int64_t hidden = 0;  // width of the residual stream
  int64_t layers = 0;
  int64_t heads = 0;     // query heads
  int64_t kv_heads = 0;  // heads % kv_heads == 0
  int64_t head_dim = 0;  // multiple of 8, at most 256
  int64_t inner = 0;     // width of the gated MLP
  int64_t context = 0;   // tokens the model was trained for, or that its rule of positions stretches that to
  double rms_eps = 1e-5;
  bool tied_embeddings = false;
  bool qkv_bias = false;    // something is added to queries, keys and values
  bool head_norms = false;  // each head of queries and keys is normed before it turns
  bool post_norms = false;  // what attention and the MLP give is normed before it is added
  RopeConfig rope;
  int64_t bos_token = -1;           // -1: none
  std::vector<int64_t> eos_tokens;  // any of them ends an answer

  [[nodiscard]] int64_t kv_width() const { return kv_heads * head_dim; }
  [[nodiscard]] bool is_eos(int64_t token) const;
  // Throws InvalidInput for a prompt of no token, or of so many that the context has no room for an answer.
  void check_prompt(int64_t tokens) const;
  // Parameters in all matrices, embeddings counted once when tied.
  [[nodiscard]] int64_t parameters() const;
};

// Throw InvalidInput naming the field, its value and what is allowed; an unknown architecture lists the
// known.
[[nodiscard]] ModelConfig config_from_gguf(const GgufFile& file);
[[nodiscard]] ModelConfig config_from_hf_folder(
    const std::filesystem::path& folder);  // reads config.json (+ generation_config.json)
// Sizes of a named public model or of a test shape, for runs on random weights: "llama-3-8b", "tiny", ...
[[nodiscard]] ModelConfig config_from_shape_name(std::string_view shape);
[[nodiscard]] std::vector<std::string> shape_names();

// The checks every source of a config passes through.
void validate(const ModelConfig& config);

}  // namespace shadowkv
