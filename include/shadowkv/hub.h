// Models by name: "org/name" becomes files of this machine, fetched from a hub that speaks the protocol of
// huggingface.co where the cache lacks them. The cache is laid out as huggingface_hub lays it out, so that
// both programs share it.
//
//     const auto name = shadowkv::parse_hub_model("HuggingFaceTB/SmolLM2-135M-Instruct");
//     const auto found = shadowkv::fetch_model(*name, shadowkv::hub_options_from_environment());
//     auto engine = shadowkv::Engine::load({.model = found.model});
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace shadowkv {

// What a name asks for.
struct HubModel {
  std::string repository;         // "org/name"
  std::string revision = "main";  // branch, tag or commit
  std::string file;  // "dir/model.gguf", or a part of such a name ("Q4_K_M"); empty: the usual one
};
// Reads "org/name[@revision][:file]"; nothing where the text has another form.
[[nodiscard]] std::optional<HubModel> parse_hub_model(std::string_view text);

// Where models come from and lie, and how patient to be.
struct HubOptions {
  std::filesystem::path cache;                      // folder of models--org--name folders
  std::string endpoint = "https://huggingface.co";  // of the hub; no slash at its end
  std::string token;                                // sent to the endpoint's host alone; empty: none
  bool offline = false;                             // use what the cache holds, and no network
  int64_t connections = 8;                          // files and parts of files fetched at once, 1 to 64
  int64_t part_bytes = int64_t{32} << 20;           // bytes of a large file fetched by one request
  double answer_timeout_s = 10;                     // seconds to connect, and to hear about a model
  double stall_timeout_s = 10;                      // seconds in which a transfer must bring 1 KiB each
  int64_t retries = 5;                              // tries after the first that bring nothing new
  double first_pause_s = 1;                         // before the first retry; each next one doubles it
};
// As the variables say that huggingface_hub reads (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HF_ENDPOINT,
// HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT), and
// SHADOWKV_HUB_CONNECTIONS, SHADOWKV_HUB_PART, SHADOWKV_HUB_RETRIES and SHADOWKV_HUB_PAUSE. Throws
// InvalidInput for values out of range.
[[nodiscard]] HubOptions hub_options_from_environment();

// How far a download is.
struct HubProgress {
  int64_t done_bytes = 0;   // of the files to fetch, those included that an earlier try has left
  int64_t total_bytes = 0;  // 0 until it is known
  bool waiting = false;     // another process fetches the same files
};
// Sees it several times a second, on the caller's thread. Throw Interrupted from it to stop; what came so far
// is kept for the next time.
using HubProgressCallback = std::function<void(const HubProgress&)>;

// Where a model lies.
struct HubFiles {
  std::filesystem::path model;  // for EngineOptions::model: the snapshot's folder, or a .gguf file in it
  std::string commit;           // 40 hexadecimal digits
  int64_t fetched_bytes = 0;    // 0: everything was there
  std::string note;             // why the cache's copy was taken unasked; empty: it was not
};
// Throws InvalidInput for a model, revision or file that is not there or not to be had (gated, private), for
// a repository without a model, names that lead out of the cache and too little room; DeviceFailure where the
// network or the disk fails or what came is not what was promised; what `progress` throws. What is not whole
// and checked never gets a name in the cache.
[[nodiscard]] HubFiles fetch_model(const HubModel& model, const HubOptions& options,
                                   const HubProgressCallback& progress = {});

}  // namespace shadowkv
