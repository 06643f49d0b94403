#include "model/weights_plan.h"

#include <algorithm>
#include <numeric>

#include "base/bytes.h"
#include "base/check.h"

namespace shadowkv {
namespace {

// Between two calls of progress; holds several rows of any model.
constexpr int64_t kMostBatchBytes = int64_t{32} << 20;
// Batches that travel or are made at a time: one that is made, one that travels, one between them so that
// neither waits for a late one of the other kind.
constexpr int kStagings = 3;
constexpr int64_t kPieceElements = int64_t{1} << 16;  // one piece of work for a thread

void plan_layer(const ModelConfig& config, DType dtype, int64_t layer, std::vector<PlannedWeight>& plan) {
  const int64_t q_width = config.heads * config.head_dim;
  const auto matrix = [&](WeightRole role, int64_t rows, int64_t columns) {
    plan.push_back({role, layer, rows, columns, dtype});
  };
  const auto vector = [&](WeightRole role, int64_t columns) {
    plan.push_back({role, layer, {}, columns, DType::f32});
  };
  vector(WeightRole::attention_norm, config.hidden);
  matrix(WeightRole::wq, q_width, config.hidden);
  matrix(WeightRole::wk, config.kv_width(), config.hidden);
  matrix(WeightRole::wv, config.kv_width(), config.hidden);
  if (config.qkv_bias) {
    vector(WeightRole::bq, q_width);
    vector(WeightRole::bk, config.kv_width());
    vector(WeightRole::bv, config.kv_width());
  }
  if (config.head_norms) {
    vector(WeightRole::q_norm, config.head_dim);
    vector(WeightRole::k_norm, config.head_dim);
  }
  matrix(WeightRole::wo, config.hidden, q_width);
  if (config.post_norms) vector(WeightRole::post_attention_norm, config.hidden);
  vector(WeightRole::mlp_norm, config.hidden);
  matrix(WeightRole::gate, config.inner, config.hidden);
  matrix(WeightRole::up, config.inner, config.hidden);
  matrix(WeightRole::down, config.hidden, config.inner);
  if (config.post_norms) vector(WeightRole::post_mlp_norm, config.hidden);
}

Matrix& matrix_of(ModelWeights& weights, WeightRole role, LayerWeights* layer) {
  switch (role) {
    case WeightRole::embedding:
      return weights.embedding;
    case WeightRole::wq:
      return layer->wq;
    case WeightRole::wk:
      return layer->wk;
    case WeightRole::wv:
      return layer->wv;
    case WeightRole::wo:
      return layer->wo;
    case WeightRole::gate:
      return layer->gate;
    case WeightRole::up:
      return layer->up;
    case WeightRole::down:
      return layer->down;
    default:
      return weights.lm_head;
  }
}

TensorView& vector_of(ModelWeights& weights, WeightRole role, LayerWeights* layer) {
  switch (role) {
    case WeightRole::attention_norm:
      return layer->attention_norm;
    case WeightRole::bq:
      return layer->bq;
    case WeightRole::bk:
      return layer->bk;
    case WeightRole::bv:
      return layer->bv;
    case WeightRole::q_norm:
      return layer->q_norm;
    case WeightRole::k_norm:
      return layer->k_norm;
    case WeightRole::post_attention_norm:
      return layer->post_attention_norm;
    case WeightRole::mlp_norm:
      return layer->mlp_norm;
    case WeightRole::post_mlp_norm:
      return layer->post_mlp_norm;
    default:
      return weights.final_norm;
  }
}

void place(ModelWeights& weights, const PlannedWeight& weight, const Buffer& buffer) {
  LayerWeights* layer = weight.layer < 0 ? nullptr : &weights.layers[static_cast<std::size_t>(weight.layer)];
  if (!weight.rows) {
    vector_of(weights, weight.role, layer) = TensorView(buffer.data(), weight.dtype, {weight.columns});
    return;
  }
  Matrix& matrix = matrix_of(weights, weight.role, layer);
  matrix = TensorView(buffer.data(), weight.dtype, {*weight.rows, weight.columns});
  if (matrix.quantized())
    matrix.scales = TensorView(buffer.data() + weight.scales_at(), DType::f32, {*weight.rows});
}

}  // namespace

int64_t PlannedWeight::scales_at() const {
  constexpr int64_t kAlignment = 16;
  return round_up(row_count() * columns * size_of(dtype), kAlignment);
}

std::vector<int64_t> PlannedWeight::shape() const {
  if (!rows) return {columns};
  return {*rows, columns};
}

std::vector<PlannedWeight> plan_weights(const ModelConfig& config, DType matrices) {
  require(matrices == DType::f32 || matrices == DType::bf16 || matrices == DType::i8,
          "weights in {} were asked for; supported are float32, bfloat16, int8", name_of(matrices));
  std::vector<PlannedWeight> plan;
  plan.push_back({WeightRole::embedding, -1, config.vocab_size, config.hidden, matrices});
  for (int64_t layer = 0; layer < config.layers; ++layer) plan_layer(config, matrices, layer, plan);
  plan.push_back({WeightRole::final_norm, -1, {}, config.hidden, DType::f32});
  if (!config.tied_embeddings) {
    plan.push_back({WeightRole::lm_head, -1, config.vocab_size, config.hidden, matrices});
  }
  return plan;
}

int64_t total_bytes(const std::vector<PlannedWeight>& plan) {
  return std::accumulate(plan.begin(), plan.end(), int64_t{0},
                         [](int64_t sum, const PlannedWeight& weight) { return sum + weight.bytes(); });
}

ModelWeights allocate_weights(const ModelConfig& config, const std::vector<PlannedWeight>& plan,
                              Device& device) {
  const int64_t total = total_bytes(plan);
  const int64_t free = device.free_bytes(Tier::device);
  if (total > free) {
    throw OutOfMemory(
        fmt::format("the weights of {} take {} in {} and {} of device memory are free; raise --device-memory "
                    "or take a smaller model",
                    config.name, format_bytes(total), name_of(plan.front().dtype), format_bytes(free)));
  }
  ModelWeights weights;
  weights.layers.resize(static_cast<std::size_t>(config.layers));
  for (const PlannedWeight& weight : plan) {
    weights.storage.push_back(device.allocate(Tier::device, Purpose::weights, weight.bytes()));
    place(weights, weight, weights.storage.back());
  }
  if (config.tied_embeddings) weights.lm_head = weights.embedding;
  return weights;
}

WeightFiller::WeightFiller(Device& device, int64_t total, LoadProgress progress)
    : device_(device),
      stagings_(device.kind() == DeviceKind::cpu ? 0 : std::min(kStagings, device.lanes())),
      batch_bytes_(kMostBatchBytes),
      total_(total),
      progress_(std::move(progress)) {
  if (stagings_ == 0) return;
  batch_bytes_ = std::min({kMostBatchBytes, total, device.free_bytes(Tier::pinned_host) / stagings_});
}

WeightFiller::~WeightFiller() {
  try {
    finish();
  } catch (const Error&) {
    // Whoever filled has been told, or gave up before the end.
  }
}

void WeightFiller::finish() {
  for (const Staging& staging : staging_) staging.copies->synchronize();
}

// The one whose turn it is, when nothing is read from it any more.
WeightFiller::Staging& WeightFiller::next_staging(int64_t bytes) {
  const auto turn = static_cast<std::size_t>(turn_++ % stagings_);
  if (turn == staging_.size()) staging_.push_back({Buffer(), &device_.lane(static_cast<int>(turn)).copy});
  Staging& staging = staging_[turn];
  staging.copies->synchronize();
  if (staging.memory.bytes() < bytes) {
    staging.memory = Buffer();
    staging.memory = device_.allocate(Tier::pinned_host, Purpose::weights, bytes);
  }
  return staging;
}

void WeightFiller::fill(const PlannedWeight& weight, std::byte* target, const Produce& produce) {
  const int64_t row_bytes = weight.columns * size_of(weight.dtype);
  const int64_t scale_bytes = weight.dtype == DType::i8 ? size_of(DType::f32) : 0;
  const int64_t batch_rows = std::max<int64_t>(1, batch_bytes_ / (row_bytes + scale_bytes));
  const int64_t piece_rows = std::max<int64_t>(1, kPieceElements / weight.columns);
  for (int64_t first = 0; first < weight.row_count(); first += batch_rows) {
    const int64_t rows = std::min(batch_rows, weight.row_count() - first);
    std::byte* numbers_to = target + first * row_bytes;
    std::byte* scales_to = target + weight.scales_at() + first * scale_bytes;
    const int64_t staged = std::max(batch_bytes_, row_bytes + scale_bytes);
    Staging* staging = stagings_ > 0 ? &next_staging(staged) : nullptr;
    // Scales come first, so that they are aligned.
    std::byte* scales = staging ? staging->memory.data() : scales_to;
    std::byte* numbers = staging ? scales + rows * scale_bytes : numbers_to;
    device_.threads().for_each(ceil_div(rows, piece_rows), [&](int64_t piece) {
      const int64_t begin = piece * piece_rows;
      produce({.first = first + begin,
               .count = std::min(piece_rows, rows - begin),
               .numbers = numbers + begin * row_bytes,
               .scales = reinterpret_cast<float*>(scales + begin * scale_bytes)});
    });
    if (staging) {
      staging->copies->copy(numbers_to, numbers, rows * row_bytes);
      staging->copies->copy(scales_to, scales, rows * scale_bytes);
    }
    done_ += rows * (row_bytes + scale_bytes);
    if (progress_) progress_(static_cast<double>(done_) / static_cast<double>(total_));
  }
}

}  // namespace shadowkv
