#include "attention/step_cut.h"

#include <algorithm>
#include <numeric>

namespace shadowkv {
namespace {

// Parts that a batch with values on the host is cut into unless the configuration says otherwise, and
// sequences of a part: fewer do not fill a GPU.
constexpr int64_t kStepParts = 3;
constexpr int64_t kLeastSequences = 8;
// Values attended a layer by those that travel from which on hiding them is worth reading a layer's weights
// twice, 100 microseconds of a model of 8 billion parameters: below (17 MiB were measured) parts are faster,
// above (35 MiB) micro-batches are.
constexpr int64_t kWorthMicroBatches = int64_t{24} << 20;

int64_t travellers(std::span<const int64_t> host_bytes) {
  return std::count_if(host_bytes.begin(), host_bytes.end(), [](int64_t bytes) { return bytes > 0; });
}

// Where sequences that travel border on those that do not: the place nearest to `place` that is less
// than `reach` away, else `place` itself.
int64_t nearest_border(std::span<const int64_t> host_bytes, int64_t place, int64_t reach) {
  const auto is_border = [&](int64_t at) {
    if (at <= 0 || at >= static_cast<int64_t>(host_bytes.size())) return false;
    const auto i = static_cast<std::size_t>(at);
    return (host_bytes[i - 1] > 0) != (host_bytes[i] > 0);
  };
  for (int64_t away = 0; away < reach; ++away) {
    if (is_border(place - away)) return place - away;
    if (is_border(place + away)) return place + away;
  }
  return place;
}

int64_t parts_of(const StepToCut& step) {
  const auto size = static_cast<int64_t>(step.host_bytes.size());
  const bool travels = travellers(step.host_bytes) > 0;
  const int64_t suited = travels ? std::min({size / kLeastSequences, step.lanes, kStepParts}) : 1;
  return std::clamp<int64_t>(step.step_parts > 0 ? step.step_parts : suited, 1, std::max<int64_t>(1, size));
}

// One part computes while the values of another travel. With rerank the part that fetches most goes first:
// arithmetic is what takes longest, and only what travels last is waited for. Without, the link is: the part
// that fetches least goes first, so that the link has work early.
StepCut cut_into_parts(const StepToCut& step) {
  const std::span<const int64_t> bytes = step.host_bytes;
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t count = parts_of(step);
  struct Sized {
    StepPart part;
    int64_t bytes;
  };
  std::vector<Sized> cuts;
  for (int64_t i = 0, first = 0; i < count; ++i) {
    const int64_t end =
        i + 1 == count ? size : nearest_border(bytes, size * (i + 1) / count, size / count / 2);
    const int64_t held = std::accumulate(bytes.begin() + first, bytes.begin() + end, int64_t{0});
    if (end > first) cuts.push_back({{first, end - first, held > 0}, held});
    first = end;
  }
  std::stable_sort(cuts.begin(), cuts.end(), [&](const Sized& a, const Sized& b) {
    if (step.reranks || b.bytes == 0) return a.bytes > b.bytes;
    return a.bytes > 0 && a.bytes < b.bytes;
  });
  StepCut whole{0, size, {}};
  for (const Sized& cut : cuts) whole.parts.push_back(cut.part);
  return whole;
}

// Sequences of the first of two micro-batches that travel and that do not.
struct Half {
  int64_t travel;
  int64_t stay;
};
Half first_half(std::span<const int64_t> host_bytes) {
  const int64_t travel = travellers(host_bytes), stay = static_cast<int64_t>(host_bytes.size()) - travel;
  return {(travel + 1) / 2, stay / 2};
}

StepCut micro_batch(int64_t first, const Half& half) {
  StepCut cut{first, half.travel + half.stay, {}};
  if (half.travel > 0) cut.parts.push_back({first, half.travel, true});
  if (half.stay > 0) cut.parts.push_back({first + half.travel, half.stay, false});
  return cut;
}

}  // namespace

int64_t micro_batches_of(const StepToCut& step) {
  const auto size = static_cast<int64_t>(step.host_bytes.size());
  if (size < 2) return 1;
  if (step.micro_batches > 0) return step.micro_batches;
  const bool worth = travellers(step.host_bytes) > 1 && step.picked_bytes >= kWorthMicroBatches;
  return worth && step.lanes > 1 ? 2 : 1;
}

std::vector<int64_t> arrange_step(const StepToCut& step) {
  const bool in_two = micro_batches_of(step) > 1;
  if (!in_two && parts_of(step) < 2) return {};
  std::vector<int64_t> travel, stay;
  for (std::size_t i = 0; i < step.host_bytes.size(); ++i) {
    (step.host_bytes[i] > 0 ? travel : stay).push_back(static_cast<int64_t>(i));
  }
  const Half half = in_two ? first_half(step.host_bytes) : Half{std::ssize(travel), std::ssize(stay)};
  std::vector<int64_t> arranged(travel.begin(), travel.begin() + half.travel);
  arranged.insert(arranged.end(), stay.begin(), stay.begin() + half.stay);
  arranged.insert(arranged.end(), travel.begin() + half.travel, travel.end());
  arranged.insert(arranged.end(), stay.begin() + half.stay, stay.end());
  return arranged;
}

std::vector<StepCut> cut_step(const StepToCut& step) {
  if (micro_batches_of(step) < 2) return {cut_into_parts(step)};
  const auto size = static_cast<int64_t>(step.host_bytes.size());
  const Half half = first_half(step.host_bytes);
  const Half rest{travellers(step.host_bytes) - half.travel, size - travellers(step.host_bytes) - half.stay};
  std::vector<StepCut> cuts = {micro_batch(0, half), micro_batch(half.travel + half.stay, rest)};
  for (const StepCut& cut : cuts) {
    for (const StepPart& part : cut.parts) {
      const auto own =
          step.host_bytes.subspan(static_cast<std::size_t>(part.first), static_cast<std::size_t>(part.count));
      if (travellers(own) != (part.over_link ? part.count : 0)) return {cut_into_parts(step)};
    }
  }
  return cuts;
}

}  // namespace shadowkv
