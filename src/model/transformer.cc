#include "model/transformer.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/kernels.h"

namespace shadowkv {

namespace {

template <typename T>
std::vector<T> arranged(std::span<const T> from, std::span<const int64_t> places) {
  if (places.empty()) return {from.begin(), from.end()};
  std::vector<T> out;
  for (const int64_t place : places) out.push_back(from[static_cast<std::size_t>(place)]);
  return out;
}

}  // namespace

// Views over one buffer, in the activations' type.
struct Transformer::Slice {
  TensorView normed;  // [rows, hidden]
  TensorView q;       // [rows, heads, head_dim]
  TensorView k;       // [rows, kv_heads, head_dim]
  TensorView v;       // [rows, kv_heads, head_dim]
  TensorView mixed;   // [rows, heads, head_dim] what attention returns
  TensorView gate;    // [rows, inner]
  TensorView up;      // [rows, inner]
};

Transformer::Transformer(const ModelConfig& config, const ModelWeights& weights, Device& device)
    : config_(config),
      weights_(weights),
      device_(device),
      ids_(device),
      sampling_(device),
      hidden_(device),
      slice_(device),
      normed_(device),
      logits_(device),
      drawn_(device) {}

int64_t Transformer::slice_bytes(int64_t rows) const {
  const int64_t numbers =
      config_.hidden + 2 * config_.heads * config_.head_dim + 2 * config_.kv_width() + 2 * config_.inner;
  return rows * numbers * size_of(device_.activation_dtype());
}

// A CPU's matrices run at full rate from a few hundred rows on, and its caches hold the activations of no
// more. A GPU's, and its attention above all, want thousands.
int64_t Transformer::slice_tokens() const {
  constexpr int64_t kCpuTokens = 512, kGpuTokens = 8192, kGpuBytes = int64_t{1} << 30;
  if (device_.kind() == DeviceKind::cpu) return kCpuTokens;
  return std::clamp(kGpuBytes / slice_bytes(1) / kCpuTokens * kCpuTokens, kCpuTokens, kGpuTokens);
}

int64_t Transformer::prefill_bytes(int64_t tokens, int64_t slice_tokens) const {
  return tokens * config_.hidden * size_of(device_.activation_dtype()) +
         std::max(slice_bytes(std::min(tokens, slice_tokens)), tokens * size_of(DType::i32));
}

Transformer::Slice Transformer::slice_of(std::byte* memory, int64_t rows) const {
  std::byte* next = memory;
  const DType type = device_.activation_dtype();
  const auto take = [&](std::initializer_list<int64_t> shape) {
    const TensorView view(next, type, shape);
    next += view.bytes();
    return view;
  };
  Slice slice;
  slice.normed = take({rows, config_.hidden});
  slice.q = take({rows, config_.heads, config_.head_dim});
  slice.k = take({rows, config_.kv_heads, config_.head_dim});
  slice.v = take({rows, config_.kv_heads, config_.head_dim});
  slice.mixed = take({rows, config_.heads, config_.head_dim});
  slice.gate = take({rows, config_.inner});
  slice.up = take({rows, config_.inner});
  return slice;
}

// Checks ids and brings them to the device: to [ids].
void Transformer::upload_ids(std::span<const int32_t> ids, const TensorView& to) {
  for (const int32_t id : ids) {
    require(id >= 0 && id < config_.vocab_size, "token id {} is outside the vocabulary of {}", id,
            config_.vocab_size);
  }
  device_.compute().copy(to.data, ids.data(), to.bytes());
}

// Products of the same x, each out with a row a token.
void Transformer::project(Queue& queue, const TensorView& x,
                          std::initializer_list<MatmulGroupParams::Product> products) {
  MatmulGroupParams group{.x = x, .products = products};
  for (auto& [weight, out] : group.products) out = out.reshaped({x.shape[0], weight.shape[0]});
  matmul_group(queue, group);
}

// hidden -> normed -> q, k, v, none of them rotated.
void Transformer::attention_input(Queue& queue, const LayerWeights& weights, const TensorView& hidden,
                                  const Slice& slice) {
  rms_norm(queue,
           {.x = hidden, .weight = weights.attention_norm, .eps = config_.rms_eps, .out = slice.normed});
  project(queue, slice.normed, {{weights.wq, slice.q}, {weights.wk, slice.k}, {weights.wv, slice.v}});
}

// What follows attention: output projection and gated MLP, each added to the residual stream.
void Transformer::finish_layer(Queue& queue, const LayerWeights& weights, const TensorView& hidden,
                               const Slice& slice) {
  const int64_t rows = hidden.shape[0];
  const TensorView mixed = slice.mixed.reshaped({rows, config_.heads * config_.head_dim});
  matmul(queue, {.x = mixed, .weight = weights.wo, .bias = {}, .out = hidden, .accumulate = true});
  rms_norm(queue, {.x = hidden, .weight = weights.mlp_norm, .eps = config_.rms_eps, .out = slice.normed});
  project(queue, slice.normed, {{weights.gate, slice.gate}, {weights.up, slice.up}});
  silu_mul(queue, {.gate = slice.gate, .up = slice.up, .out = slice.gate});
  matmul(queue, {.x = slice.gate, .weight = weights.down, .bias = {}, .out = hidden, .accumulate = true});
}

// hidden [rows, hidden] -> logits [rows, vocab] float32, valid until the next call.
TensorView Transformer::logits(const TensorView& hidden) {
  Queue& queue = device_.compute();
  const int64_t rows = hidden.shape[0];
  const TensorView normed = normed_.get(hidden.dtype, {rows, config_.hidden});
  const TensorView out = logits_.get(DType::f32, {rows, config_.vocab_size});
  rms_norm(queue, {.x = hidden, .weight = weights_.final_norm, .eps = config_.rms_eps, .out = normed});
  matmul(queue, {.x = normed, .weight = weights_.lm_head, .bias = {}, .out = out});
  return out;
}

template <typename T>
std::vector<T> Transformer::download(const TensorView& from) {
  std::vector<T> host(static_cast<std::size_t>(from.elements()));
  device_.compute().copy(host.data(), from.data, from.bytes());
  device_.compute().synchronize();
  return host;
}

// The rows of the latest step in its caller's order.
template <typename T>
std::vector<T> Transformer::download_step(const TensorView& from) {
  std::vector<T> rows = download<T>(from);
  if (arranged_.empty()) return rows;
  std::vector<T> out(rows.size());
  const int64_t each = from.elements() / from.shape[0];
  for (std::size_t i = 0; i < arranged_.size(); ++i) {
    std::copy_n(rows.begin() + static_cast<int64_t>(i) * each, each, out.begin() + arranged_[i] * each);
  }
  return out;
}

std::vector<float> Transformer::prefill(Attention& attention, SeqId sequence, std::span<const int32_t> ids,
                                        int64_t slice_tokens, const StepProgress& progress) {
  PrefillRun run = begin_prefill(sequence, ids, slice_tokens);
  while (!is_done(run)) {
    const int64_t layer = run.layer;
    advance(attention, run, run.tokens);     // a slice, or closing as a whole
    const bool closed = run.layer != layer;  // which is no progress of its own
    if (progress && !closed) progress(run.share(config_.layers));
  }
  return end_prefill(run);
}

PrefillRun Transformer::begin_prefill(SeqId sequence, std::span<const int32_t> ids, int64_t slice_tokens) {
  const auto count = static_cast<int64_t>(ids.size());
  require(count > 0, "the prompt is empty; give at least one token");
  const DType type = device_.activation_dtype();
  PrefillRun run;
  run.sequence = sequence;
  run.tokens = count;
  run.slice_tokens = std::min(count, slice_tokens);
  run.memory = device_.allocate(Tier::device, Purpose::activations, count * config_.hidden * size_of(type));
  run.hidden = TensorView(run.memory.data(), type, {count, config_.hidden});
  const int64_t slice = std::max(slice_bytes(run.slice_tokens), count * size_of(DType::i32));
  run.scratch = device_.allocate(Tier::device, Purpose::activations, slice);
  const TensorView on_device(run.scratch.data(), DType::i32, {count});  // until the first slice
  upload_ids(ids, on_device);
  embed(device_.compute(), {.table = weights_.embedding, .ids = on_device, .out = run.hidden});
  return run;
}

void Transformer::advance(Attention& attention, PrefillRun& run, int64_t rows) {
  if (run.first < run.tokens) {
    rows = std::min({rows, run.slice_tokens, run.tokens - run.first});
    prefill_slice(attention, run, rows);
    run.first += rows;
  } else {
    run.closed = attention.close_prefill(run.sequence, run.layer, run.closed, rows);
    if (run.closed < run.tokens) return;
    run.first = run.closed = 0;
    ++run.layer;
  }
}

void Transformer::prefill_slice(Attention& attention, const PrefillRun& run, int64_t rows) {
  const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(run.layer)];
  const Slice slice = slice_of(run.scratch.data(), rows);
  const TensorView part = run.hidden.rows(run.first, rows);
  attention_input(device_.compute(), weights, part, slice);
  attention.prefill({.layer = run.layer,
                     .hidden = slice.normed,
                     .q = slice.q,
                     .k = slice.k,
                     .v = slice.v,
                     .sequence = run.sequence,
                     .first_position = run.first},
                    slice.mixed);
  finish_layer(device_.compute(), weights, part, slice);
}

std::vector<float> Transformer::end_prefill(const PrefillRun& run) {
  return download<float>(logits(run.hidden.rows(run.tokens - 1, 1)));
}

std::vector<float> Transformer::decode(Attention& attention, std::span<const SeqId> sequences,
                                       std::span<const int32_t> ids) {
  step(attention, sequences, ids, std::vector<SamplingRow>(ids.size()));
  std::vector<float> rows =
      download_step<float>(logits_.get(DType::f32, {std::ssize(ids), config_.vocab_size}));
  attention.end_step();  // once nothing can fail any more
  return rows;
}

std::vector<int32_t> Transformer::decode_sampled(Attention& attention, std::span<const SeqId> sequences,
                                                 std::span<const int32_t> ids,
                                                 std::span<const SamplingRow> how) {
  return decode_sampled(attention, sequences, ids, how, {}).ids;
}

Transformer::Drawn Transformer::decode_sampled(Attention& attention, std::span<const SeqId> sequences,
                                               std::span<const int32_t> ids, std::span<const SamplingRow> how,
                                               std::span<const int64_t> logit_rows) {
  step(attention, sequences, ids, how);
  Drawn drawn{.ids = download_step<int32_t>(drawn_.get(DType::i32, {std::ssize(ids)})),
              .logits = download_logits(logit_rows, std::ssize(ids))};
  attention.end_step();
  return drawn;
}

// Some rows of the latest step's logits, named in its caller's order.
std::vector<float> Transformer::download_logits(std::span<const int64_t> rows, int64_t batch) {
  const TensorView from = logits_.get(DType::f32, {batch, config_.vocab_size});
  std::vector<float> out(rows.size() * static_cast<std::size_t>(config_.vocab_size));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto place = std::find(arranged_.begin(), arranged_.end(), rows[i]) - arranged_.begin();
    const TensorView row = from.rows(arranged_.empty() ? rows[i] : place, 1);
    device_.compute().copy(out.data() + static_cast<int64_t>(i) * config_.vocab_size, row.data, row.bytes());
  }
  if (!rows.empty()) device_.compute().synchronize();
  return out;
}

// To the same place in every step, so that a recorded one draws as the latest says.
const SamplingRow* Transformer::upload_sampling(std::span<const SamplingRow> how) {
  const TensorView on_device = sampling_.get(DType::u8, {static_cast<int64_t>(how.size_bytes())});
  device_.compute().copy(on_device.data, how.data(), on_device.bytes());
  return reinterpret_cast<const SamplingRow*>(on_device.data);
}

// Runs a step up to its end, from its recording where one of its shape exists. All that a recording reads
// lies at the same address in every step.
void Transformer::step(Attention& attention, std::span<const SeqId> sequences, std::span<const int32_t> ids,
                       std::span<const SamplingRow> how) {
  require(sequences.size() == ids.size() && how.size() == ids.size() && !ids.empty(),
          "a decode step got {} sequences, {} tokens and {} ways to draw the next", sequences.size(),
          ids.size(), how.size());
  arranged_ = attention.arrange(sequences);
  const TensorView on_device = ids_.get(DType::i32, {std::ssize(ids)});
  upload_ids(arranged(ids, arranged_), on_device);
  const SamplingRow* rows = upload_sampling(arranged(how, arranged_));
  attention.begin_step(arranged(sequences, arranged_));
  const StepShape shape{attention.step_shape(), device_.address_epoch(), &attention};
  const auto body = [&] { run_step(attention, on_device, rows); };
  if (Graph* graph = graphs_.find(shape, [&] { return device_.compute().record(body); })) {
    graph->launch();
  } else {
    body();
    graphs_.ran({shape.attention, device_.address_epoch(), &attention});
  }
}

void Transformer::run_layer(Attention& attention, int64_t layer, int64_t micro_batch, Queue& queue,
                            const TensorView& hidden, const Slice& slice) {
  const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
  attention_input(queue, weights, hidden, slice);
  attention.decode({.layer = layer,
                    .hidden = slice.normed,
                    .q = slice.q,
                    .k = slice.k,
                    .v = slice.v,
                    .micro_batch = micro_batch},
                   slice.mixed);
  finish_layer(queue, weights, hidden, slice);
}

// All device work of a decode step: embed, layers, logits, the tokens that are drawn.
void Transformer::run_step(Attention& attention, const TensorView& ids, const SamplingRow* rows) {
  const int64_t count = ids.shape[0];
  const TensorView hidden = hidden_.get(device_.activation_dtype(), {count, config_.hidden});
  std::byte* memory = slice_.get(DType::u8, {slice_bytes(count)}).data;
  Queue& main = device_.compute();
  embed(main, {.table = weights_.embedding, .ids = ids, .out = hidden});
  std::vector<MicroBatch> batches = attention.micro_batches();
  if (batches.empty()) batches.push_back({0, count, &main});
  for (const MicroBatch& batch : batches) batch.queue->wait_for(main);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const MicroBatch& batch = batches[i];
      const Slice slice = slice_of(memory + slice_bytes(batch.first), batch.count);
      const TensorView part = hidden.rows(batch.first, batch.count);
      run_layer(attention, layer, static_cast<int64_t>(i), *batch.queue, part, slice);
    }
  }
  for (const MicroBatch& batch : batches) main.wait_for(*batch.queue);
  sample_tokens(main, {.logits = logits(hidden), .rows = rows, .ids = drawn_.get(DType::i32, {count})});
}

}  // namespace shadowkv
