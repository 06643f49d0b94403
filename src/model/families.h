// What families of models differ in, as rows of data: how their files spell things, and which parts a layer
// has. A new family is a row of families.cc.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "model/weights_plan.h"

namespace shadowkv {

// Whether a layer has some part: in no model of the family, in all, or as the file says.
enum class Has : uint8_t { never, always, as_told };

// "{}" in a name stands for the layer's number. Weights of one name lie in its tensor row after row, in the
// order of their roles.
struct WeightName {
  WeightRole role;
  std::string_view name;
};

// A field of config.json under another name than most families have for it.
struct FieldName {
  std::string_view usual, here;
};

// A field of config.json that is supported with one value alone; what the value is where it is absent.
struct FixedFlag {
  const char* key;
  bool supported, absent;
};

struct Family {
  std::string_view hf{};    // model_type of config.json; empty: no such folders
  std::string_view gguf{};  // general.architecture; empty: no such files of its own
  Has qkv_bias = Has::never;
  bool head_norms = false;
  bool post_norms = false;
  bool neighbours_hf = false;    // rotary pairs are neighbours in folders
  bool neighbours_gguf = false;  // and in GGUF files
  double rotary_share = 0;       // of a head, that turns where the file does not say; 0: whole heads always
  bool windows_by_flag = false;  // sliding_window counts only where use_sliding_window is true
  std::span<const WeightName> hf_names = {};    // before the usual ones
  std::span<const WeightName> gguf_names = {};  // likewise
  std::span<const FieldName> fields = {};
  std::span<const FixedFlag> flags = {};
};

// Null: unknown.
[[nodiscard]] const Family* find_hf_family(std::string_view model_type);
[[nodiscard]] const Family* find_gguf_family(std::string_view architecture);
// "llama, mistral, ...", for messages.
[[nodiscard]] std::string known_hf_families();
[[nodiscard]] std::string known_gguf_families();

// The tensor that a weight is, or is a part of.
[[nodiscard]] std::string hf_tensor_name(const Family& family, const PlannedWeight& weight);
// fused_qkv: the file has the projections of q, k and v in one tensor.
[[nodiscard]] std::string gguf_tensor_name(const Family& family, const PlannedWeight& weight, bool fused_qkv);

}  // namespace shadowkv
