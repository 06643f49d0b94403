// Configs of small files, and why files are refused.
#pragma once

#include <string>
#include <string_view>

#include "formats/gguf.h"
#include "formats/refusal.h"
#include "model/config.h"
#include "model/small_model.h"

namespace shadowkv::testing {

inline ModelConfig from_gguf(const GgufWriter& writer) {
  const TemporaryFolder folder;
  return config_from_gguf(GgufFile(folder.write("m.gguf", writer.bytes())));
}

inline ModelConfig from_hf(std::string_view config, std::string_view generation = "") {
  const TemporaryFolder folder;
  folder.write("config.json", config);
  if (!generation.empty()) folder.write("generation_config.json", generation);
  return config_from_hf_folder(folder.path());
}

inline std::string gguf_refusal(const GgufWriter& writer) {
  return refusal_of([&] { (void)from_gguf(writer); });
}
inline std::string hf_refusal(const std::string& more) {
  return refusal_of([&] { (void)from_hf(small_hf_config(more)); });
}

}  // namespace shadowkv::testing
