#include "model/transformer.h"

#include <algorithm>

#include "attention/trace.h"
#include "base/check.h"
#include "base/checksum.h"
#include "kernels/kernels.h"

namespace shadowkv {

namespace {

template <typename T>
std::vector<T> arranged(std::span<const T> from, std::span<const int64_t> places) {
  if (places.empty() || from.empty()) return {from.begin(), from.end()};
  std::vector<T> out;
  for (const int64_t place : places) out.push_back(from[static_cast<std::size_t>(place)]);
  return out;
}

// A step's ops are those that one of its rows needs: only they are recorded.
LogitOps ops_of(std::span<const LogitRow> rows) {
  LogitOps ops;
  for (const LogitRow& row : rows) {
    ops.changes |= row.changes();
    ops.keeps_raw |= row.raw != nullptr;
    ops.ranks |= row.likeliest >= 0;
  }
  return ops;
}

// To the same place in every step, so that a recorded one draws as the latest says. Null for no rows.
template <typename Row>
const Row* send_rows(StagedUpload& upload, std::span<const Row> rows) {
  if (rows.empty()) return nullptr;
  const auto bytes = static_cast<int64_t>(rows.size_bytes());
  std::copy(rows.begin(), rows.end(), reinterpret_cast<Row*>(upload.host(bytes)));
  upload.send(bytes);
  return reinterpret_cast<const Row*>(upload.device());
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
      hidden_(device),
      slice_(device),
      normed_(device),
      logits_(device),
      drawn_(device),
      ranks_(device),
      sampling_(device),
      changes_(device) {}

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

uint64_t Transformer::fingerprint() {
  constexpr int64_t kSampleBytes = 4096;  // of each end
  std::vector<const TensorView*> all = {&weights_.embedding, &weights_.final_norm, &weights_.lm_head};
  for (const LayerWeights& layer : weights_.layers) {
    all.insert(all.end(), {&layer.attention_norm, &layer.wq, &layer.wk, &layer.wv, &layer.wo, &layer.mlp_norm,
                           &layer.gate, &layer.up, &layer.down});
    for (const TensorView* part : {&layer.bq, &layer.bk, &layer.bv, &layer.q_norm, &layer.k_norm,
                                   &layer.post_attention_norm, &layer.post_mlp_norm}) {
      if (!part->empty()) all.push_back(part);
    }
  }
  std::vector<std::byte> sample(static_cast<std::size_t>(2 * kSampleBytes * std::ssize(all)));
  std::byte* to = sample.data();
  for (const TensorView* matrix : all) {
    const int64_t bytes = std::min(kSampleBytes, matrix->bytes());
    device_.compute().copy(to, matrix->data, bytes);
    device_.compute().copy(to + kSampleBytes, matrix->data + matrix->bytes() - bytes, bytes);
    to += 2 * kSampleBytes;
  }
  device_.compute().synchronize();
  return checksum(sample, static_cast<uint64_t>(weights_.embedding.shape[0]));
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
  for (auto& [weight, out, bias] : group.products) out = out.reshaped({x.shape[0], weight.shape[0]});
  matmul_group(queue, group);
}

// hidden -> normed -> q, k, v, none of them rotated.
void Transformer::attention_input(Queue& queue, const LayerWeights& weights, const TensorView& hidden,
                                  const Slice& slice) {
  rms_norm(queue,
           {.x = hidden, .weight = weights.attention_norm, .eps = config_.rms_eps, .out = slice.normed});
  project(queue, slice.normed,
          {{weights.wq, slice.q, weights.bq},
           {weights.wk, slice.k, weights.bk},
           {weights.wv, slice.v, weights.bv}});
  norm_heads(queue, slice.q, weights.q_norm);
  norm_heads(queue, slice.k, weights.k_norm);
}

// x: [rows, heads, head_dim]
void Transformer::norm_heads(Queue& queue, const TensorView& x, const TensorView& weight) {
  if (weight.empty()) return;
  const TensorView heads = x.reshaped({x.shape[0] * x.shape[1], x.shape[2]});
  rms_norm(queue, {.x = heads, .weight = weight, .eps = config_.rms_eps, .out = heads});
}

// product.out += product, normed before where there is a norm. free: memory of a result
void Transformer::add_product(Queue& queue, MatmulParams product, const TensorView& norm,
                              const TensorView& free) {
  const TensorView hidden = product.out;
  product.accumulate = norm.empty();
  if (!norm.empty()) product.out = free;
  matmul(queue, product);
  if (norm.empty()) return;
  rms_norm(queue, {.x = free, .weight = norm, .eps = config_.rms_eps, .out = hidden, .accumulate = true});
}

// What follows attention: output projection and gated MLP, each added to the residual stream.
void Transformer::finish_layer(Queue& queue, const LayerWeights& weights, const TensorView& hidden,
                               const Slice& slice) {
  const int64_t rows = hidden.shape[0];
  const TensorView mixed = slice.mixed.reshaped({rows, config_.heads * config_.head_dim});
  add_product(queue, {.x = mixed, .weight = weights.wo, .bias = {}, .out = hidden},
              weights.post_attention_norm, slice.normed);
  rms_norm(queue, {.x = hidden, .weight = weights.mlp_norm, .eps = config_.rms_eps, .out = slice.normed});
  project(queue, slice.normed, {{weights.gate, slice.gate}, {weights.up, slice.up}});
  silu_mul(queue, {.gate = slice.gate, .up = slice.up, .out = slice.gate});
  add_product(queue, {.x = slice.gate, .weight = weights.down, .bias = {}, .out = hidden},
              weights.post_mlp_norm, slice.normed);
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
std::vector<T> Transformer::download(const T* from, int64_t count) {
  std::vector<T> host(static_cast<std::size_t>(count));
  device_.compute().copy(host.data(), from, count * static_cast<int64_t>(sizeof(T)));
  device_.compute().synchronize();
  sampling_.arrived();
  changes_.arrived();
  return host;
}

// The rows of the latest step, of `each` numbers, in its caller's order.
template <typename T>
std::vector<T> Transformer::download_step(const T* from, int64_t batch, int64_t each) {
  std::vector<T> rows = download(from, batch * each);
  if (arranged_.empty()) return rows;
  std::vector<T> out(rows.size());
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

PrefillRun Transformer::begin_prefill(SeqId sequence, std::span<const int32_t> ids, int64_t slice_tokens,
                                      int64_t past) {
  const auto count = static_cast<int64_t>(ids.size());
  require(count > 0, "the prompt is empty; give at least one token");
  const DType type = device_.activation_dtype();
  PrefillRun run;
  run.sequence = sequence;
  run.past = past;
  run.tokens = count;
  run.slice_tokens = std::min(count, slice_tokens);
  run.memory = device_.allocate(Tier::device, Purpose::prompts, count * config_.hidden * size_of(type));
  run.hidden = TensorView(run.memory.data(), type, {count, config_.hidden});
  const int64_t slice = std::max(slice_bytes(run.slice_tokens), count * size_of(DType::i32));
  run.scratch = device_.allocate(Tier::device, Purpose::prompts, slice);
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
    run.closed = attention.close_prefill(run.sequence, run.layer, run.past + run.closed, rows) - run.past;
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
                     .first_position = run.past + run.first},
                    slice.mixed);
  finish_layer(device_.compute(), weights, part, slice);
}

std::vector<float> Transformer::end_prefill(const PrefillRun& run) {
  const TensorView last = logits(run.hidden.rows(run.tokens - 1, 1));
  return download(last.as<float>(), last.elements());
}

std::vector<float> Transformer::decode(Attention& attention, std::span<const SeqId> sequences,
                                       std::span<const int32_t> ids) {
  const std::vector<SamplingRow> greedy(ids.size());
  step(attention, sequences, ids, {.how = greedy});
  const int64_t batch = std::ssize(ids), vocab = config_.vocab_size;
  std::vector<float> rows = download_step(logits_.get(DType::f32, {batch, vocab}).as<float>(), batch, vocab);
  attention.end_step();  // once nothing can fail any more
  return rows;
}

Transformer::Drawn Transformer::decode_sampled(Attention& attention, std::span<const SeqId> sequences,
                                               std::span<const int32_t> ids, const Drawing& drawing) {
  step(attention, sequences, ids, drawing);
  const int64_t batch = std::ssize(ids);
  Drawn drawn{.ids = download_step(drawn_.get(DType::i32, {batch}).as<int32_t>(), batch, 1), .ranks = {}};
  if (ops_of(drawing.changes).ranks) drawn.ranks = download_step(ranks(batch), batch, 1);
  attention.end_step();
  return drawn;
}

Transformer::Drawn Transformer::end_prefill_sampled(const PrefillRun& run, const Drawing& drawing) {
  require(drawing.how.size() == 1 && drawing.changes.size() <= 1,
          "a prompt's end got {} ways to draw and changes of {} rows of logits", drawing.how.size(),
          drawing.changes.size());
  const StepTables tables{.ids = {},
                          .how = send_rows(sampling_, drawing.how),
                          .changes = send_rows(changes_, drawing.changes),
                          .ops = ops_of(drawing.changes)};
  draw(logits(run.hidden.rows(run.tokens - 1, 1)), tables);
  Drawn drawn{.ids = download(drawn_.get(DType::i32, {1}).as<int32_t>(), 1), .ranks = {}};
  if (tables.ops.ranks) drawn.ranks = download(ranks(1), 1);
  return drawn;
}

TokenRanks* Transformer::ranks(int64_t count) {
  const TensorView bytes = ranks_.get(DType::u8, {count * static_cast<int64_t>(sizeof(TokenRanks))});
  return reinterpret_cast<TokenRanks*>(bytes.data);
}

// Runs a step up to its end, from its recording where one of its shape exists. All that a recording reads
// lies at the same address in every step.
void Transformer::step(Attention& attention, std::span<const SeqId> sequences, std::span<const int32_t> ids,
                       const Drawing& drawing) {
  require(sequences.size() == ids.size() && drawing.how.size() == ids.size() && !ids.empty(),
          "a decode step got {} sequences, {} tokens and {} ways to draw the next", sequences.size(),
          ids.size(), drawing.how.size());
  require(drawing.changes.empty() || drawing.changes.size() == ids.size(),
          "a decode step of {} sequences got changes of {} rows of logits", ids.size(),
          drawing.changes.size());
  arranged_ = attention.arrange(sequences);
  const std::vector<SamplingRow> how = arranged(drawing.how, arranged_);
  const std::vector<LogitRow> changes = arranged(drawing.changes, arranged_);
  const StepTables tables{.ids = ids_.get(DType::i32, {std::ssize(ids)}),
                          .how = send_rows<SamplingRow>(sampling_, how),
                          .changes = send_rows<LogitRow>(changes_, changes),
                          .ops = ops_of(drawing.changes)};
  upload_ids(arranged(ids, arranged_), tables.ids);
  attention.begin_step(arranged(sequences, arranged_));
  const StepShape shape{attention.step_shape(), device_.address_epoch(), &attention, tables.ops};
  const auto body = [&] { run_step(attention, tables); };
  told_of_ = told_ ? arranged(sequences, arranged_) : std::vector<SeqId>();
  if (told_) return body();
  if (Graph* graph = graphs_.find(shape, [&] { return device_.compute().record(body); })) {
    graph->launch();
  } else {
    body();
    graphs_.ran({shape.attention, device_.address_epoch(), &attention, tables.ops});
  }
}

void Transformer::run_layer(Attention& attention, int64_t layer, int64_t micro_batch, const MicroBatch& batch,
                            const TensorView& hidden, const Slice& slice) {
  Queue& queue = *batch.queue;
  const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(layer)];
  attention_input(queue, weights, hidden, slice);
  attention.decode({.layer = layer,
                    .hidden = slice.normed,
                    .q = slice.q,
                    .k = slice.k,
                    .v = slice.v,
                    .micro_batch = micro_batch},
                   slice.mixed);
  if (told_) tell(attention, layer, batch, slice.mixed);
  finish_layer(queue, weights, hidden, slice);
}

void Transformer::tell(Attention& attention, int64_t layer, const MicroBatch& batch,
                       const TensorView& mixed) {
  batch.queue->synchronize();
  for (int64_t i = 0; i < batch.count; ++i) {
    const SeqId sequence = told_of_[static_cast<std::size_t>(batch.first + i)];
    const LayerTrace trace = attention.trace(layer, sequence);
    told_(sequence, layer, trace, read_numbers(device_.compute(), mixed.rows(i, 1)));
  }
}

// All device work of a decode step: embed, layers, logits, the tokens that are drawn.
void Transformer::run_step(Attention& attention, const StepTables& tables) {
  const int64_t count = tables.ids.shape[0];
  const TensorView hidden = hidden_.get(device_.activation_dtype(), {count, config_.hidden});
  std::byte* memory = slice_.get(DType::u8, {slice_bytes(count)}).data;
  Queue& main = device_.compute();
  embed(main, {.table = weights_.embedding, .ids = tables.ids, .out = hidden});
  std::vector<MicroBatch> batches = attention.micro_batches();
  if (batches.empty()) batches.push_back({0, count, &main});
  for (const MicroBatch& batch : batches) batch.queue->wait_for(main);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const MicroBatch& batch = batches[i];
      const Slice slice = slice_of(memory + slice_bytes(batch.first), batch.count);
      const TensorView part = hidden.rows(batch.first, batch.count);
      run_layer(attention, layer, static_cast<int64_t>(i), batch, part, slice);
    }
  }
  for (const MicroBatch& batch : batches) main.wait_for(*batch.queue);
  draw(logits(hidden), tables);
}

void Transformer::draw(const TensorView& logits, const StepTables& tables) {
  Queue& queue = device_.compute();
  const int64_t count = logits.shape[0];
  const TensorView ids = drawn_.get(DType::i32, {count});
  if (tables.ops.changes) {
    change_logits(queue, {.logits = logits, .rows = tables.changes, .keeps_raw = tables.ops.keeps_raw});
  }
  sample_tokens(queue, {.logits = logits, .rows = tables.how, .ids = ids});
  if (tables.ops.ranks) {
    rank_tokens(queue, {.logits = logits, .rows = tables.changes, .ids = ids, .ranks = ranks(count)});
  }
}

}  // namespace shadowkv
