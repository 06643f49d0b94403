// What callers are told of prompts that are kept, and may do with them: carried out by the service's thread,
// between two turns of its loop.
#include <algorithm>
#include <exception>
#include <future>
#include <memory>
#include <thread>
#include <utility>

#include "base/check.h"
#include "engine/model_service.h"

namespace shadowkv {
namespace {

constexpr std::size_t kIdCharacters = 32;

std::string id_of(const Prefix& prefix) {
  return hex(prefix.name).substr(0, kIdCharacters);
}

}  // namespace

// On a caller's thread: what the service's thread makes of it, waited for. Work throws nothing but to its
// caller.
template <typename Work>
auto ModelService::on_thread(Work work) {
  require(
      std::this_thread::get_id() != thread_.get_id(),
      "what is kept of prompts was asked for within a callback, for which the thread that knows it waits; "
      "ask from another thread");
  using Result = decltype(work());
  const auto task = std::make_shared<std::packaged_task<Result()>>(std::move(work));
  std::future<Result> result = task->get_future();
  {
    const std::lock_guard lock(mutex_);
    asked_.emplace_back([task] { (*task)(); });
  }
  bell_->ring();
  return result.get();
}

std::vector<KeptPrompt> ModelService::kept_prompts(const std::string& cache_salt) {
  if (!prefixes_) return {};
  return on_thread([this, tenant = salt_digest(cache_salt)] {
    std::vector<KeptPrompt> kept;
    for (const PrefixId id : prefixes_->of_tenant(tenant)) kept.push_back(describe_kept(id));
    return kept;
  });
}

std::optional<KeptPrompt> ModelService::change_kept_prompt(const std::string& cache_salt,
                                                           const std::string& id, KeptAction action) {
  if (!prefixes_) return std::nullopt;
  return on_thread([this, tenant = salt_digest(cache_salt), id, action]() -> std::optional<KeptPrompt> {
    const std::vector<PrefixId> all = prefixes_->of_tenant(tenant);
    const auto found =
        std::ranges::find_if(all, [&](PrefixId each) { return id_of(prefixes_->at(each)) == id; });
    if (found == all.end()) return std::nullopt;
    const KeptPrompt before = describe_kept(*found);
    change_kept(*found, action);
    count_prefixes();
    return action == KeptAction::drop ? before : describe_kept(*found);
  });
}

KeptPrompt ModelService::describe_kept(PrefixId id) const {
  const Prefix& prefix = prefixes_->at(id);
  const bool is_on_its_way = disk_ && disk_->loading && disk_->loading->id == id;
  const bool is_on_disk = is_on_its_way || prefix.tier == PrefixTier::disk;
  return {.id = id_of(prefix),
          .tokens = prefix.tokens,
          .where = is_on_disk                        ? "disk"
                   : prefix.tier == PrefixTier::host ? "host"
                                                     : "device",
          .memory_bytes = is_on_disk ? 0 : prefixes_->memory_bytes(id),
          .file_bytes = prefix.file_bytes,
          .unused_s = seconds_between(prefix.used, Clock::now()),
          .is_pinned = prefix.is_pinned};
}

void ModelService::change_kept(PrefixId id, KeptAction action) {
  const bool needs_disk = action == KeptAction::save || action == KeptAction::restore;
  require(!needs_disk || disk_,
          "nothing is kept on a disk; give --prefix-cache-dir a folder that can be used");
  switch (action) {
    case KeptAction::pin:
    case KeptAction::unpin:
      return prefixes_->pin(id, action == KeptAction::pin);
    case KeptAction::save:
      return prefixes_->want_file(id);
    case KeptAction::restore:
      prefixes_->touch(id);
      disk_->restoring = id;
      return;
    case KeptAction::drop:
      for (const PrefixId each : prefixes_->descendants(id)) forget_prefix(each);
      return forget_prefix(id);
  }
}

// Its file as well. Nothing begins with it any more.
void ModelService::forget_prefix(PrefixId id) {
  if (disk_ && prefixes_->at(id).file_bytes > 0) erase_file(id);
  if (prefixes_->contains(id)) drop_prefix(id);
}

}  // namespace shadowkv
