#include "layer_scores.h"

#include <fmt/format.h>

#include "base/check.h"
#include "eval/chart.h"
#include "table.h"

namespace shadowkv::apps {
namespace {

Json to_json(const eval::HeadFidelity& fidelity) {
  return {{"mass", fidelity.mass},
          {"overlap", fidelity.overlap},
          {"error", fidelity.error},
          {"selection_error", fidelity.selection_error},
          {"storage_error", fidelity.storage_error}};
}

eval::HeatMap map_of(const std::string& label, const eval::LayerFidelities& fidelities) {
  eval::HeatMap map{.title = label,
                    .caption = fmt::format("attended share of exact attention's weight, mean {:.1f} %",
                                           100 * fidelities.mean().mass),
                    .columns = {},
                    .rows = {},
                    .values = {}};
  for (int64_t head = 0; head < fidelities.kv_heads(); ++head) map.columns.push_back(fmt::format("{}", head));
  for (int64_t layer = 0; layer < fidelities.layers(); ++layer) {
    map.rows.push_back(fmt::format("{}", layer));
    for (int64_t head = 0; head < fidelities.kv_heads(); ++head) {
      map.values.push_back(fidelities.at(layer, head).mass);
    }
  }
  return map;
}

}  // namespace

LayerScores::LayerScores(int64_t every, std::span<const NamedMethod> methods)
    : every_(every), fidelities_(methods.size()) {
  require(every == 0 || methods.front().config.method == Method::full,
          "layers are measured against exact attention, but the first method is {}; put full first, or drop "
          "--layers-every",
          methods.front().label);
  for (const NamedMethod& method : methods) labels_.push_back(method.label);
}

void LayerScores::begin_step(Session& session, int64_t step) {
  if (!any()) return;
  const bool observes = step % every_ == 0;
  for (std::size_t m = 0; m < labels_.size(); ++m) {
    LayerObserver observer;
    if (observes) observer = [this, m](const LayerObservation& seen) { observe(m, seen); };
    session.observe(static_cast<int64_t>(m), std::move(observer));
  }
}

void LayerScores::observe(std::size_t method, const LayerObservation& seen) {
  const auto layer = static_cast<std::size_t>(seen.layer);
  if (method == 0) {
    if (exact_.size() <= layer) exact_.resize(layer + 1);
    exact_[layer].k.assign(seen.k.begin(), seen.k.end());
    exact_[layer].v.assign(seen.v.begin(), seen.v.end());
  }
  const std::vector<eval::HeadFidelity> heads =
      eval::fidelity_of(exact_.at(layer), {.heads = seen.heads,
                                           .kv_heads = seen.kv_heads,
                                           .head_dim = seen.head_dim,
                                           .scale = seen.scale,
                                           .q = seen.q,
                                           .output = seen.output,
                                           .attended = seen.attended});
  fidelities_[method].add(seen.layer, heads);
}

std::string LayerScores::table() const {
  Table table(
      {"method", "attended weight", "worst layer", "overlap", "output error", "of selection", "of storage"});
  const auto percent = [](double share) { return fmt::format("{:.2f} %", 100 * share); };
  for (std::size_t m = 0; m < labels_.size(); ++m) {
    const eval::HeadFidelity mean = fidelities_[m].mean();
    const int64_t worst = fidelities_[m].worst_layer();
    table.add({labels_[m], percent(mean.mass),
               fmt::format("{} ({})", percent(fidelities_[m].of_layer(worst).mass), worst),
               percent(mean.overlap), percent(mean.error), percent(mean.selection_error),
               percent(mean.storage_error)});
  }
  return table.text() +
         fmt::format(
             "\nMeans over layers and KV heads, of every {} steps, for each method's own queries: the "
             "share of exact\nattention's weight that was attended, of what was attended among as many "
             "of the weightiest tokens,\nand the output's distance from exact attention's, in lengths "
             "of that.\n",
             every_);
}

Json LayerScores::json(std::size_t method) const {
  const eval::LayerFidelities& fidelities = fidelities_.at(method);
  Json layers = Json::array();
  for (int64_t layer = 0; layer < fidelities.layers(); ++layer) {
    Json heads = Json::array();
    for (int64_t head = 0; head < fidelities.kv_heads(); ++head)
      heads.push_back(to_json(fidelities.at(layer, head)));
    layers.push_back({{"layer", layer}, {"mean", to_json(fidelities.of_layer(layer))}, {"kv_heads", heads}});
  }
  return {{"mean", to_json(fidelities.mean())}, {"layers", layers}};
}

std::string LayerScores::svg() const {
  std::vector<eval::HeatMap> maps;
  for (std::size_t m = 1; m < labels_.size(); ++m) maps.push_back(map_of(labels_[m], fidelities_[m]));
  return eval::svg_of(maps);
}

}  // namespace shadowkv::apps
