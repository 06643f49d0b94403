#include "eval/layer_fidelity.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace shadowkv::eval {
namespace {

void check(const ExactKeysValues& exact, const AttendedLayer& layer) {
  const int64_t width = layer.kv_heads * layer.head_dim;
  require(width > 0 && layer.heads > 0 && layer.heads % layer.kv_heads == 0, "{} heads over {} of {} numbers",
          layer.heads, layer.kv_heads, layer.head_dim);
  require(!exact.k.empty() && std::ssize(exact.k) % width == 0 && exact.k.size() == exact.v.size(),
          "{} numbers of keys and {} of values for heads of {}", exact.k.size(), exact.v.size(), width);
  require(std::ssize(layer.q) == layer.heads * layer.head_dim && layer.output.size() == layer.q.size() &&
              std::ssize(layer.attended) == layer.kv_heads,
          "{} numbers of queries, {} of output and {} lists of positions", layer.q.size(),
          layer.output.size(), layer.attended.size());
  const int64_t tokens = std::ssize(exact.k) / width;
  for (const std::vector<int32_t>& positions : layer.attended) {
    require(!positions.empty(), "nothing was attended");
    for (const int32_t at : positions)
      require(at >= 0 && at < tokens, "position {} of {} tokens", at, tokens);
  }
}

// One KV head: its keys and values, and those of its query heads.
class Head {
 public:
  Head(const ExactKeysValues& exact, const AttendedLayer& layer, int64_t head)
      : exact_(exact),
        layer_(layer),
        head_(head),
        tokens_(std::ssize(exact.k) / (layer.kv_heads * layer.head_dim)),
        is_attended_(static_cast<std::size_t>(tokens_)),
        group_weights_(static_cast<std::size_t>(tokens_)) {
    for (const int32_t at : positions()) is_attended_[static_cast<std::size_t>(at)] = true;
  }

  [[nodiscard]] HeadFidelity fidelity() {
    const int64_t group = layer_.heads / layer_.kv_heads;
    HeadFidelity sum;
    for (int64_t i = 0; i < group; ++i) add_query_head(head_ * group + i, sum);
    for (double* part : {&sum.mass, &sum.error, &sum.selection_error, &sum.storage_error}) {
      *part /= static_cast<double>(group);
    }
    sum.overlap = overlap();
    return sum;
  }

 private:
  [[nodiscard]] const std::vector<int32_t>& positions() const {
    return layer_.attended[static_cast<std::size_t>(head_)];
  }
  [[nodiscard]] const float* row(const std::vector<float>& of, int64_t token) const {
    return of.data() + (token * layer_.kv_heads + head_) * layer_.head_dim;
  }

  // Softmax of all tokens' scores.
  [[nodiscard]] std::vector<double> weights(const float* q) const {
    std::vector<double> weights(static_cast<std::size_t>(tokens_));
    for (int64_t t = 0; t < tokens_; ++t) {
      const float* k = row(exact_.k, t);
      float score = 0;
      for (int64_t i = 0; i < layer_.head_dim; ++i) score += q[i] * k[i];
      weights[static_cast<std::size_t>(t)] = score * layer_.scale;
    }
    const double most = *std::max_element(weights.begin(), weights.end());
    for (double& weight : weights) weight = std::exp(weight - most);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (double& weight : weights) weight /= sum;
    return weights;
  }

  void add_query_head(int64_t query, HeadFidelity& sum) {
    const auto dim = static_cast<std::size_t>(layer_.head_dim);
    const std::vector<double> weight = weights(layer_.q.data() + query * layer_.head_dim);
    std::vector<double> all(dim), chosen(dim);
    double mass = 0;
    for (int64_t t = 0; t < tokens_; ++t) {
      const auto at = static_cast<std::size_t>(t);
      const float* v = row(exact_.v, t);
      for (std::size_t i = 0; i < dim; ++i) all[i] += weight[at] * v[i];
      group_weights_[at] += weight[at];
      if (!is_attended_[at]) continue;
      mass += weight[at];
      for (std::size_t i = 0; i < dim; ++i) chosen[i] += weight[at] * v[i];
    }
    const float* output = layer_.output.data() + query * layer_.head_dim;
    double length = 0, error = 0, selection = 0, storage = 0;
    for (std::size_t i = 0; i < dim; ++i) {
      const double of_chosen = mass > 0 ? chosen[i] / mass : 0;
      length += all[i] * all[i];
      error += (output[i] - all[i]) * (output[i] - all[i]);
      selection += (of_chosen - all[i]) * (of_chosen - all[i]);
      storage += (output[i] - of_chosen) * (output[i] - of_chosen);
    }
    const double whole = std::sqrt(std::max(length, 1e-30));
    sum.mass += mass;
    sum.error += std::sqrt(error) / whole;
    sum.selection_error += std::sqrt(selection) / whole;
    sum.storage_error += std::sqrt(storage) / whole;
  }

  // By the weights of all query heads together.
  [[nodiscard]] double overlap() const {
    const std::size_t count = positions().size();
    std::vector<int32_t> order(static_cast<std::size_t>(tokens_));
    std::iota(order.begin(), order.end(), 0);
    const auto heavier = [&](int32_t a, int32_t b) {
      return group_weights_[static_cast<std::size_t>(a)] > group_weights_[static_cast<std::size_t>(b)];
    };
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count) - 1, order.end(),
                     heavier);
    const auto both = std::count_if(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count),
                                    [&](int32_t at) { return is_attended_[static_cast<std::size_t>(at)]; });
    return static_cast<double>(both) / static_cast<double>(count);
  }

  const ExactKeysValues& exact_;
  const AttendedLayer& layer_;
  int64_t head_;
  int64_t tokens_;
  std::vector<bool> is_attended_;
  std::vector<double> group_weights_;
};

void accumulate(HeadFidelity& sum, const HeadFidelity& one, double factor = 1) {
  sum.mass += factor * one.mass;
  sum.overlap += factor * one.overlap;
  sum.error += factor * one.error;
  sum.selection_error += factor * one.selection_error;
  sum.storage_error += factor * one.storage_error;
}

}  // namespace

std::vector<HeadFidelity> fidelity_of(const ExactKeysValues& exact, const AttendedLayer& layer) {
  check(exact, layer);
  std::vector<HeadFidelity> heads;
  for (int64_t head = 0; head < layer.kv_heads; ++head) heads.push_back(Head(exact, layer, head).fidelity());
  return heads;
}

void LayerFidelities::add(int64_t layer, std::span<const HeadFidelity> heads) {
  const auto at = static_cast<std::size_t>(layer);
  if (sums_.size() <= at) sums_.resize(at + 1);
  if (sums_[at].size() < heads.size()) sums_[at].resize(heads.size());
  for (std::size_t i = 0; i < heads.size(); ++i) {
    accumulate(sums_[at][i].sum, heads[i]);
    ++sums_[at][i].count;
  }
}

int64_t LayerFidelities::kv_heads() const {
  return sums_.empty() ? 0 : std::ssize(sums_.front());
}

HeadFidelity LayerFidelities::at(int64_t layer, int64_t head) const {
  const Sum& sum = sums_.at(static_cast<std::size_t>(layer)).at(static_cast<std::size_t>(head));
  HeadFidelity mean;
  if (sum.count > 0) accumulate(mean, sum.sum, 1.0 / static_cast<double>(sum.count));
  return mean;
}

HeadFidelity LayerFidelities::of_layer(int64_t layer) const {
  const int64_t heads = std::ssize(sums_.at(static_cast<std::size_t>(layer)));
  HeadFidelity mean;
  for (int64_t head = 0; head < heads; ++head)
    accumulate(mean, at(layer, head), 1.0 / static_cast<double>(heads));
  return mean;
}

HeadFidelity LayerFidelities::mean() const {
  HeadFidelity mean;
  for (int64_t layer = 0; layer < layers(); ++layer) {
    accumulate(mean, of_layer(layer), 1.0 / static_cast<double>(layers()));
  }
  return mean;
}

int64_t LayerFidelities::worst_layer() const {
  int64_t worst = 0;
  for (int64_t layer = 1; layer < layers(); ++layer) {
    if (of_layer(layer).mass < of_layer(worst).mass) worst = layer;
  }
  return worst;
}

}  // namespace shadowkv::eval
