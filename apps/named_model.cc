#include "named_model.h"

#include "base/check.h"
#include "download_progress.h"

namespace shadowkv::apps {

const char* const kHubVariables =
    "Environment: the cache is HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub, and is shared "
    "with "
    "huggingface_hub. HF_ENDPOINT: the hub. HF_TOKEN, or the file HF_TOKEN_PATH or HF_HOME/token: for "
    "private and gated "
    "models. HF_HUB_OFFLINE=1: no network. HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT: seconds to wait for "
    "an answer, "
    "and for a transfer that stands still [10]. SHADOWKV_HUB_CONNECTIONS: at once [8]. SHADOWKV_HUB_PART: "
    "bytes of a "
    "large file in one request [32M]. SHADOWKV_HUB_RETRIES: after failures without progress [5]. "
    "SHADOWKV_HUB_PAUSE: "
    "seconds before the first of them, doubled each time [1].";

HubFiles fetch_named(const HubModel& model, const std::string& given) {
  DownloadProgress progress(given);
  HubFiles files = fetch_model(model, hub_options_from_environment(), progress.callback());
  progress.finish(files);
  return files;
}

std::optional<HubModel> name_in(const std::filesystem::path& given) {
  std::error_code ignored;
  if (std::filesystem::exists(given, ignored)) return std::nullopt;
  return parse_hub_model(given.string());
}

std::filesystem::path local_model(const std::filesystem::path& given) {
  std::error_code ignored;
  if (std::filesystem::exists(given, ignored)) return given;
  const std::optional<HubModel> named = name_in(given);
  require(named.has_value(), "there is no file or folder {}; check --model", given.string());
  return fetch_named(*named, given.string()).model;
}

}  // namespace shadowkv::apps
