#include "attention/segments.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <utility>

#include "base/check.h"
#include "kernels/kernels.h"

namespace shadowkv {
namespace {

constexpr int64_t kWholeSequence = int64_t{1} << 40;

}  // namespace

Segments::Segments(const AttentionShape& shape, const AttentionConfig& config, Device& device)
    : shape_(shape),
      device_(device),
      basis_dtype_(device.activation_dtype()),
      rank_(config.rank),
      fits_(config.method == Method::shadow),
      segment_tokens_(config.segment_tokens > 0
                          ? config.segment_tokens / config.chunk_size * config.chunk_size
                          : kWholeSequence / config.chunk_size * config.chunk_size),
      min_tokens_(config.segment_min_tokens),
      table_(device) {}

// Sizes are multiples of 16, so that every layer's rows can be read 16 bytes at a time.
int64_t Segments::basis_bytes() const {
  return round_up(rank_ * shape_.kv_width() * size_of(basis_dtype_), 16);
}

// Per layer: basis [R, W] in the device's activation type, then mean [W] and centre [W] in float32.
int64_t Segments::layer_bytes() const {
  return round_up(basis_bytes() + 2 * mean_bytes(), 16);
}

// Segments that tokens [first, end) begin and give bases of their own.
std::vector<Segments::Range> Segments::split(int64_t first, int64_t end) const {
  std::vector<Range> ranges;
  if (!fits_) return ranges;
  for (int64_t begun = round_up(first, segment_tokens_); begun < end; begun += segment_tokens_) {
    const int64_t until = std::min(end, begun + segment_tokens_);
    if (begun == 0 || until - begun >= min_tokens_) ranges.push_back({begun, until});
  }
  return ranges;
}

int64_t Segments::bytes_for(int64_t first, int64_t end) const {
  return static_cast<int64_t>(split(first, end).size()) * shape_.layers * layer_bytes();
}

// Zeroed: between what is kept of the layers lie a few bytes that nothing is written to, and files hold all.
std::shared_ptr<Buffer> Segments::allocate() {
  auto buffer = std::make_shared<Buffer>(
      device_.allocate(Tier::device, Purpose::factors, shape_.layers * layer_bytes()));
  device_.compute().fill_zero(buffer->data(), buffer->bytes());
  return buffer;
}

void Segments::extend(int64_t row, int64_t first, int64_t end) {
  Row& entry = rows_[static_cast<std::size_t>(row)];
  const std::vector<Range> added = split(first, end);
  std::vector<std::shared_ptr<Buffer>> buffers;
  for (std::size_t i = 0; i < added.size(); ++i) buffers.push_back(allocate());
  entry.fitted.insert(entry.fitted.end(), added.begin(), added.end());
  std::move(buffers.begin(), buffers.end(), std::back_inserter(entry.buffers));
  write_table(static_cast<std::size_t>(row));
}

void Segments::truncate(int64_t row, int64_t first) {
  Row& entry = rows_[static_cast<std::size_t>(row)];
  while (!entry.fitted.empty() && entry.fitted.back().first >= first) {
    entry.fitted.pop_back();
    entry.buffers.pop_back();
  }
  write_table(static_cast<std::size_t>(row));
}

void Segments::begin(int64_t row, int64_t prompt_tokens, int64_t max_tokens) {
  restore(row, split(0, prompt_tokens), std::max(prompt_tokens, max_tokens));
}

bool Segments::can_hold(const std::vector<Range>& fitted, int64_t end) const {
  if (!fits_) return fitted.empty();
  int64_t next = 0;
  for (const Range& range : fitted) {
    const bool is_first = next == 0;
    if (range.first < next || range.first % segment_tokens_ != 0 || (is_first && range.first != 0))
      return false;
    if (range.end <= range.first || range.end > end || range.end - range.first > segment_tokens_)
      return false;
    next = range.first + 1;
  }
  return next > 0;
}

void Segments::add_memory(int64_t row, std::vector<MemoryPiece>& to) const {
  for (const auto& buffer : rows_[static_cast<std::size_t>(row)].buffers) {
    to.push_back({buffer->data(), buffer->bytes()});
  }
}

void Segments::restore(int64_t row, std::vector<Range> fitted, int64_t max_tokens) {
  const auto index = static_cast<std::size_t>(row);
  if (index >= rows_.size()) rows_.resize(index + 1);
  Row& entry = rows_[index];
  entry = Row();
  entry.fitted = std::move(fitted);
  for (std::size_t i = 0; i < entry.fitted.size(); ++i) {
    entry.buffers.push_back(allocate());
  }
  fit_table(index, max_tokens);
}

void Segments::share(int64_t from, int64_t to, int64_t max_tokens) {
  const auto index = static_cast<std::size_t>(to);
  if (index >= rows_.size()) rows_.resize(index + 1);
  rows_[index] = rows_[static_cast<std::size_t>(from)];
  fit_table(index, max_tokens);
}

// Room for a row of so many tokens, which is then written.
void Segments::fit_table(std::size_t index, int64_t max_tokens) {
  const int64_t segments = ceil_div(max_tokens, segment_tokens_);
  const auto rows = static_cast<int64_t>(rows_.size());
  if (segments <= stride_) {
    if (table_.size() < rows * stride_) table_.resize(rows * stride_);
    return write_table(index);
  }
  stride_ = segments;
  table_.lay_out(rows * stride_);
  for (std::size_t r = 0; r < rows_.size(); ++r) write_table(r);
}

// Each segment of a row finds the latest fitted one that does not begin after it.
void Segments::write_table(std::size_t row) {
  const Row& entry = rows_[row];
  std::size_t own = 0;
  for (int64_t s = 0; s < stride_ && !entry.buffers.empty(); ++s) {
    while (own + 1 < entry.fitted.size() && entry.fitted[own + 1].first <= s * segment_tokens_) ++own;
    table_.set(static_cast<int64_t>(row) * stride_ + s, entry.buffers[own]->data());
  }
}

int64_t Segments::fitted_end(int64_t row, int64_t token, int64_t tokens) const {
  if (!fits_) return token;
  for (const Range& range : fitted(row)) {
    if (range.first >= token) return range.first;
  }
  return tokens;
}

Segments::Description Segments::describe(const Buffer& buffer, int64_t layer) const {
  const int64_t width = shape_.kv_width();
  std::byte* part = buffer.data() + layer * layer_bytes();
  return {.basis = TensorView(part, basis_dtype_, {rank_, width}),
          .mean = TensorView(part + basis_bytes(), DType::f32, {width}),
          .centre = TensorView(part + basis_bytes() + mean_bytes(), DType::f32, {width})};
}

Segments::Description Segments::description(int64_t row, int64_t layer, int64_t position) const {
  const Row& entry = rows_[static_cast<std::size_t>(row)];
  const auto behind = std::ranges::upper_bound(entry.fitted, position, {}, &Range::first);
  const auto own = static_cast<std::size_t>(behind - entry.fitted.begin() - 1);
  return describe(*entry.buffers.at(own), layer);
}

void Segments::fit(int64_t row, const RawLayer& raw, int64_t layer, const Range& within) {
  Queue& queue = device_.compute();
  const int64_t width = shape_.kv_width();
  const Row& entry = rows_[static_cast<std::size_t>(row)];
  for (std::size_t i = 0; i < entry.fitted.size(); ++i) {
    const Range range = entry.fitted[i];
    if (range.first < within.first || range.first >= within.end) continue;
    const int64_t count = range.end - range.first;
    const TensorView before = raw.k_raw.rows(range.first, count).reshaped({count, width});
    const TensorView rotated = raw.k.rows(range.first, count).reshaped({count, width});
    const auto& [basis, mean, centre] = describe(*entry.buffers[i], layer);
    column_mean(queue, {.x = before, .mean = mean});
    fit_basis(queue, {.x = before, .mean = mean, .basis = basis});
    column_mean(queue, {.x = rotated, .mean = centre});
  }
}

void Segments::fill(int64_t row, uint64_t seed) {
  Queue& queue = device_.compute();
  const Row& entry = rows_[static_cast<std::size_t>(row)];
  if (entry.buffers.empty()) return;
  for (const auto& buffer : entry.buffers) queue.fill_zero(buffer->data(), buffer->bytes());
  // Uniform numbers of variance 1 / width, so that rows are of length about 1.
  const float bound = std::sqrt(3.0f / static_cast<float>(shape_.kv_width()));
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    PagedView each = basis(queue, layer);
    each.block_tokens = 1;  // its "tokens" are segments
    randomize_rows(queue, {.to = each,
                           .row = row,
                           .tokens = static_cast<int64_t>(entry.buffers.size()),
                           .heads = 1,
                           .elements = rank_ * shape_.kv_width(),
                           .low = -bound,
                           .high = bound,
                           .seed = seed + static_cast<uint64_t>(layer)});
  }
}

void Segments::release(int64_t row) {
  if (row < static_cast<int64_t>(rows_.size())) rows_[static_cast<std::size_t>(row)] = Row();
}

void Segments::move(int64_t row, Tier to) {
  if (row >= static_cast<int64_t>(rows_.size())) return;
  Row& entry = rows_[static_cast<std::size_t>(row)];
  for (const auto& buffer : entry.buffers) {
    if (to == Tier::device || !serves_others(entry, buffer)) move_buffer(device_.compute(), *buffer, to);
  }
  entry.is_on_host = to == Tier::pinned_host;
  for (std::size_t each = 0; each < rows_.size(); ++each) write_table(each);
}

bool Segments::serves_others(const Row& row, const std::shared_ptr<Buffer>& buffer) const {
  return buffer.use_count() > 1 && std::ranges::any_of(rows_, [&](const Row& other) {
           return &other != &row && !other.is_on_host &&
                  std::ranges::find(other.buffers, buffer) != other.buffers.end();
         });
}

int64_t Segments::held_bytes(Tier tier) const {
  std::set<const Buffer*> held;
  for (const Row& row : rows_) {
    for (const auto& buffer : row.buffers) {
      if (buffer->tier() == tier) held.insert(buffer.get());
    }
  }
  int64_t sum = 0;
  for (const Buffer* buffer : held) sum += buffer->bytes();
  return sum;
}

const std::vector<Segments::Range>& Segments::fitted(int64_t row) const {
  return rows_[static_cast<std::size_t>(row)].fitted;
}

PagedView Segments::view(Queue& queue, int64_t layer, int64_t bytes, DType dtype) {
  PagedView view;
  view.table = table_.upload(queue);
  view.seq_stride = stride_;
  view.block_tokens = segment_tokens_;
  view.offset = layer * layer_bytes() + bytes;
  view.dtype = dtype;
  return view;
}

PagedView Segments::mean(Queue& queue, int64_t layer) {
  return view(queue, layer, basis_bytes(), DType::f32);
}
PagedView Segments::basis(Queue& queue, int64_t layer) {
  return view(queue, layer, 0, basis_dtype_);
}

PagedView Segments::centre(Queue& queue, int64_t layer) {
  PagedView centre = view(queue, layer, basis_bytes() + mean_bytes(), DType::f32);
  centre.head_offset = shape_.head_dim * size_of(DType::f32);
  return centre;
}

}  // namespace shadowkv
