// How a decode step is cut (step_cut.h) and which lanes of the device its pieces run on.
#include <algorithm>

#include "attention/shadow.h"

namespace shadowkv {
namespace {

// A sequence travels if that part of its values lies on the host, 1 / kTravels: while the device is full the
// tails of all sequences grow there, which is nothing to wait for.
constexpr int64_t kTravels = 8;

}  // namespace

bool ShadowAttention::reranks(const Sequence& sequence) const {
  const int64_t sealed = sealed_chunks(sequence.tokens + 1, config_.chunk_size, config_.local_window);
  return std::min(sequence.candidates, sealed - 1) > sequence.budget;
}

// Bytes of values that each sequence of these rows has on the host; 0 for those that do not travel.
std::vector<int64_t> ShadowAttention::host_bytes(std::span<const int64_t> rows) const {
  std::vector<int64_t> bytes;
  bytes.reserve(rows.size());
  for (const int64_t row : rows) {
    const int64_t on_host = values_.held_bytes(row, Tier::pinned_host);
    const int64_t all = on_host + values_.held_bytes(row, Tier::device);
    bytes.push_back(on_host * kTravels < all ? 0 : on_host);
  }
  return bytes;
}

// ids: sparse sequences; bytes: their host_bytes().
StepToCut ShadowAttention::to_cut(std::span<const SeqId> ids, std::span<const int64_t> bytes) const {
  StepToCut step{.host_bytes = bytes,
                 .lanes = std::max<int64_t>(1, device_.lanes() - 1),
                 .step_parts = config_.step_parts,
                 .micro_batches = config_.micro_batches};
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Sequence& sequence = sequences_.at(ids[i]);
    step.reranks = step.reranks || reranks(sequence);
    if (bytes[i] > 0) step.picked_bytes += sequence.budget * values_.layer_bytes(config_.chunk_size);
  }
  return step;
}

std::vector<int64_t> ShadowAttention::arrange(std::span<const SeqId> ids) const {
  std::vector<int64_t> rows;
  for (const SeqId id : ids) {
    const Sequence& sequence = sequences_.at(id);
    if (!sequence.sparse) return {};
    rows.push_back(sequence.row);
  }
  const std::vector<int64_t> bytes = host_bytes(rows);
  return arrange_step(to_cut(ids, bytes));
}

// Micro-batches beside sequences that are exact would need places of their own in the batch.
void ShadowAttention::cut_batch(std::span<const SeqId> ids) {
  const std::vector<int64_t> bytes = host_bytes(sparse_rows_);
  StepToCut step = to_cut(ids, bytes);
  if (!exact_at_.empty()) step.micro_batches = 1;
  const std::vector<StepCut> cuts = cut_step(step);
  batches_.clear();
  link_ = nullptr;
  if (cuts.size() == 1) return batches_.push_back(whole_batch(cuts[0]));
  for (const StepCut& cut : cuts) batches_.push_back(micro_batch(cut, std::ssize(batches_)));
}

Lane ShadowAttention::lane(int64_t index) {
  return device_.lane(static_cast<int>(index % device_.lanes()));
}

// Parts on lanes of their own, from the device's first; what is kept on its last.
ShadowAttention::OwnBatch ShadowAttention::whole_batch(const StepCut& cut) {
  const int64_t last = device_.lanes() - 1;
  OwnBatch batch{cut.first, cut.count, &device_.compute(), &lane(last).compute, {}};
  for (const StepPart& part : cut.parts) {
    const Lane own = lane(std::ssize(batch.parts) % std::max<int64_t>(1, last));
    batch.parts.push_back({part, own});
  }
  return batch;
}

// One lane for its layers and parts, another for what is kept and for values on the device, which do not
// queue for the link. Ops of lane 0 may use other lanes, so it is not taken.
ShadowAttention::OwnBatch ShadowAttention::micro_batch(const StepCut& cut, int64_t index) {
  const Lane own = lane(1 + index), other = lane(std::max<int64_t>(0, device_.lanes() - 1 - index));
  OwnBatch batch{cut.first, cut.count, &own.compute, &other.compute, {}};
  for (const StepPart& part : cut.parts) {
    const Lane used{own.compute, part.over_link ? own.copy : other.copy};
    batch.parts.push_back({part, used});
  }
  return batch;
}

std::vector<MicroBatch> ShadowAttention::micro_batches() {
  std::vector<MicroBatch> batches;
  if (batches_.size() < 2) return batches;
  for (const OwnBatch& batch : batches_) batches.push_back({batch.first, batch.count, batch.main});
  return batches;
}

DecodeBatch ShadowAttention::batch_of(int64_t first, int64_t count) const {
  DecodeBatch batch = sparse_step_.batch();
  batch.size = count;
  batch.rows += first;
  batch.tokens += first;
  return batch;
}

TensorView ShadowAttention::queries_of(const Part& part) const {
  return sparse_step_.q().rows(part.first, part.count);
}

}  // namespace shadowkv
