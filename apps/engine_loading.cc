#include "engine_loading.h"

#include "interrupt.h"
#include "progress.h"

namespace shadowkv::apps {

std::unique_ptr<Engine> load_engine(const EngineOptions& options) {
  ProgressBar bar("loading");
  std::unique_ptr<Engine> engine = Engine::load(options, bar.callback());
  check_interrupted();
  return engine;
}

PrefillResult prefill_with_bar(Session& session, std::span<const int32_t> ids, int64_t max_tokens) {
  PrefillResult result;
  ProgressBar bar("reading the prompt");
  const Stopwatch watch;
  result.sequence = session.add(max_tokens);
  result.logits = session.prefill(result.sequence, ids, bar.callback());
  result.seconds = watch.seconds();
  check_interrupted();
  return result;
}

}  // namespace shadowkv::apps
