// Paged, slot and resident storage for tests, built the way a cache does: blocks in no order, components
// behind an offset, tables on the device. Every storage has two views: `view` for ops, and `host`, whose
// tables the test itself can read to find addresses.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "kernels/devices.h"
#include "kernels/kernels.h"
#include "kernels/views.h"

namespace shadowkv::testing {

inline constexpr float kNone = -std::numeric_limits<float>::infinity();

inline std::size_t at(int64_t index) {
  return static_cast<std::size_t>(index);
}

inline void copy(Device& device, void* to, const void* from, int64_t bytes) {
  device.compute().copy(to, from, bytes);
  device.compute().synchronize();
}

// n numbers of float32 or bfloat16 at a device address.
inline std::vector<float> read_numbers(Device& device, const std::byte* from, DType dtype, int64_t n) {
  return download_floats(device, TensorView(const_cast<std::byte*>(from), dtype, {n}));
}

inline void write_numbers(Device& device, std::byte* to, DType dtype, const std::vector<float>& numbers) {
  const auto n = static_cast<int64_t>(numbers.size());
  const Array rounded = upload_as(device, dtype, numbers, {n});
  copy(device, to, rounded.view.data, rounded.view.bytes());
}

// bfloat16 if either is: the type whose numbers pass through both unchanged.
inline DType narrower(DType a, DType b) {
  return a == DType::bf16 || b == DType::bf16 ? DType::bf16 : DType::f32;
}

// Numbers as an activation of the device.
inline Array upload_activation(Device& device, const std::vector<float>& numbers,
                               const std::vector<int64_t>& shape) {
  return upload_as(device, device.activation_dtype(), numbers, shape);
}

// Candidates and their chunks of rows of `candidates` of them, those in no slot, by candidate. slots: of
// each, or empty: none has one.
inline std::vector<int32_t> list_missing(const std::vector<int32_t>& chunks,
                                         const std::vector<int32_t>& slots, int64_t candidates) {
  std::vector<int32_t> missing;
  for (int64_t i = 0; i < static_cast<int64_t>(chunks.size()); ++i) {
    if (chunks[at(i)] >= 0 && (slots.empty() || slots[at(i)] < 0)) {
      missing.push_back(static_cast<int32_t>(i % candidates));
      missing.push_back(chunks[at(i)]);
    }
    if ((i + 1) % candidates == 0) missing.resize(at(2 * (i + 1)), -1);
  }
  return missing;
}

inline float rounded(float x, DType dtype) {
  return dtype == DType::bf16 ? static_cast<float>(bf16(x)) : x;
}

// Addresses on the device and on the host.
class AddressTable {
 public:
  AddressTable() = default;
  AddressTable(Device& device, std::vector<std::byte*> addresses) : host_(std::move(addresses)) {
    std::vector<int64_t> numbers;
    for (std::byte* address : host_) numbers.push_back(reinterpret_cast<int64_t>(address));
    device_ = upload(device, numbers, {static_cast<int64_t>(numbers.size())});
  }
  [[nodiscard]] std::byte* const* host() const { return host_.data(); }
  [[nodiscard]] std::byte* const* device() const {
    return reinterpret_cast<std::byte* const*>(device_.view.data);
  }

 private:
  std::vector<std::byte*> host_;
  Array device_;
};

struct PagedLayout {
  int64_t rows = 1;
  int64_t heads = 1;
  int64_t tokens = 1;  // of every row
  int64_t block_tokens = 1;
  int64_t entry_bytes = 0;   // of one token and head; of one block and head when shared
  bool shared = false;       // all tokens of a block share one entry
  bool head_blocks = false;  // every head has blocks of its own
  DType dtype = DType::f32;
};

class Paged {
 public:
  Paged() = default;
  Paged(Device& device, const PagedLayout& layout) : device_(&device) {
    constexpr int64_t kOffset = 64;
    const int64_t blocks = ceil_div(layout.tokens, layout.block_tokens);
    const int64_t tables = layout.rows * (layout.head_blocks ? layout.heads : 1) * blocks;
    const int64_t per_head = round_up(layout.entry_bytes * (layout.shared ? 1 : layout.block_tokens), 8);
    const int64_t block_bytes = kOffset + per_head * (layout.head_blocks ? 1 : layout.heads);
    memory_ = device.allocate(Tier::device, Purpose::activations, tables * round_up(block_bytes, 64));
    device.compute().fill_zero(memory_.data(), memory_.bytes());
    std::vector<std::byte*> addresses;
    for (int64_t i = 0; i < tables; ++i) {
      // From the last to the first, so that no two neighbours in the table are neighbours in memory.
      addresses.push_back(memory_.data() + (tables - 1 - i) * round_up(block_bytes, 64));
    }
    table_ = AddressTable(device, addresses);
    host = {table_.host(),
            layout.head_blocks ? layout.heads * blocks : blocks,
            layout.head_blocks ? blocks : 0,
            layout.block_tokens,
            kOffset,
            layout.head_blocks ? 0 : per_head,
            layout.shared ? 0 : layout.entry_bytes,
            layout.dtype};
    view = host;
    view.table = table_.device();
  }

  void write(int64_t row, int64_t head, int64_t token, const std::vector<float>& numbers) {
    write_numbers(*device_, host.at(row, head, token), host.dtype, numbers);
  }
  [[nodiscard]] std::vector<float> read(int64_t row, int64_t head, int64_t token, int64_t n) const {
    return read_numbers(*device_, host.at(row, head, token), host.dtype, n);
  }

  PagedView view, host;

 private:
  Device* device_ = nullptr;
  Buffer memory_;
  AddressTable table_;
};

// Rows of n numbers a token and head in float32, bfloat16 or int8.
class Quantized {
 public:
  Quantized(Device& device, PagedLayout layout, int64_t n) : device_(&device), n_(n) {
    layout.entry_bytes = n * size_of(layout.dtype);
    data = Paged(device, layout);
    layout.entry_bytes = 2;
    layout.dtype = DType::bf16;
    scales = Paged(device, layout);
    view = {data.view, scales.view};
  }

  // For int8, `scale` is the row's scale and the numbers are rounded to multiples of it.
  void write(int64_t row, int64_t head, int64_t token, const std::vector<float>& numbers,
             float scale = 1.0f) {
    if (data.host.dtype != DType::i8) return data.write(row, head, token, numbers);
    std::vector<int8_t> codes;
    for (const float x : numbers) codes.push_back(static_cast<int8_t>(std::nearbyint(x / scale)));
    copy(*device_, data.host.at(row, head, token), codes.data(), n_);
    scales.write(row, head, token, {scale});
  }
  [[nodiscard]] std::vector<float> read(int64_t row, int64_t head, int64_t token) const {
    if (data.host.dtype != DType::i8) return data.read(row, head, token, n_);
    std::vector<int8_t> codes(at(n_));
    copy(*device_, codes.data(), data.host.at(row, head, token), n_);
    const float scale = this->scale(row, head, token);
    std::vector<float> numbers;
    for (const int8_t code : codes) numbers.push_back(static_cast<float>(code) * scale);
    return numbers;
  }
  [[nodiscard]] float scale(int64_t row, int64_t head, int64_t token) const {
    return scales.read(row, head, token, 1)[0];
  }

  Paged data, scales;
  QuantizedView view;

 private:
  Device* device_;
  int64_t n_;
};

// The sequences of a decode step.
class Sequences {
 public:
  Sequences(Device& device, const std::vector<int32_t>& rows, const std::vector<int32_t>& tokens)
      : rows_(upload(device, rows, {static_cast<int64_t>(rows.size())})),
        tokens_(upload(device, tokens, {static_cast<int64_t>(rows.size())})),
        most_(*std::max_element(tokens.begin(), tokens.end())) {}
  [[nodiscard]] DecodeBatch batch() const {
    return {rows_.view.shape[0], rows_.view.as<int32_t>(), tokens_.view.as<int32_t>(), most_};
  }
  [[nodiscard]] TokenBatch token_batch() const {  // `tokens` taken as positions
    return {rows_.view.shape[0], rows_.view.as<int32_t>(), tokens_.view.as<int32_t>()};
  }

 private:
  Array rows_, tokens_;
  int64_t most_;
};

// Regions of every row, and one number a row that says how much each holds.
class Regions {
 public:
  Regions(Device& device, const std::vector<int32_t>& counts, const std::vector<int64_t>& bytes)
      : host_counts_(counts), counts_(upload(device, counts, {static_cast<int64_t>(counts.size())})) {
    std::vector<std::byte*> addresses;
    for (const int64_t size : bytes) {
      memory_.push_back(device.allocate(Tier::device, Purpose::slots, size));
      device.compute().fill_zero(memory_.back().data(), size);
      addresses.push_back(memory_.back().data());
    }
    table_ = AddressTable(device, addresses);
  }
  [[nodiscard]] const AddressTable& table() const { return table_; }
  [[nodiscard]] const int32_t* host_counts() const { return host_counts_.data(); }
  [[nodiscard]] const int32_t* counts() const { return counts_.view.as<int32_t>(); }

 private:
  std::vector<Buffer> memory_;
  std::vector<int32_t> host_counts_;
  Array counts_;
  AddressTable table_;
};

// Slots of two layers, the second in use, all empty at first.
class Slots {
 public:
  Slots(Device& device, SlotView shape, const std::vector<int32_t>& counts) : device_(&device) {
    shape.layer = 1;
    std::vector<int64_t> bytes;
    for (const int32_t count : counts) bytes.push_back(2 * shape.layer_bytes(count));
    regions_ = std::make_unique<Regions>(device, counts, bytes);
    host = view = shape;
    host.regions = regions_->table().host();
    host.counts = regions_->host_counts();
    view.regions = regions_->table().device();
    view.counts = regions_->counts();
    for (int64_t row = 0; row < static_cast<int64_t>(counts.size()); ++row) {
      for (int64_t g = 0; g < shape.kv_heads; ++g) {
        write_ids(host.chunks(row, g), std::vector<int32_t>(at(counts[at(row)]), -1));
      }
    }
  }

  void write_ids(int32_t* to, const std::vector<int32_t>& ids) {
    copy(*device_, to, ids.data(), static_cast<int64_t>(ids.size()) * 4);
  }
  [[nodiscard]] std::vector<int32_t> ids(int64_t row, int64_t g) const {
    return read_ids(host.chunks(row, g), row);
  }
  [[nodiscard]] std::vector<int32_t> stamps(int64_t row, int64_t g) const {
    return read_ids(host.stamps(row, g), row);
  }

  SlotView view, host;

 private:
  [[nodiscard]] std::vector<int32_t> read_ids(const int32_t* from, int64_t row) const {
    std::vector<int32_t> ids(at(host.counts[row]));
    copy(*device_, ids.data(), from, static_cast<int64_t>(ids.size()) * 4);
    return ids;
  }

  Device* device_;
  std::unique_ptr<Regions> regions_;
};

// Resident storage of two layers, the second in use; outlier ids are -1 at first.
class Resident {
 public:
  Resident(Device& device, ResidentView shape, const std::vector<int32_t>& outliers) {
    shape.layer = 1;
    std::vector<int64_t> bytes;
    for (const int32_t count : outliers) bytes.push_back(2 * shape.layer_bytes(count));
    regions_ = std::make_unique<Regions>(device, outliers, bytes);
    host = view = shape;
    host.regions = regions_->table().host();
    host.outliers = regions_->host_counts();
    view.regions = regions_->table().device();
    view.outliers = regions_->counts();
    for (int64_t row = 0; row < static_cast<int64_t>(outliers.size()); ++row) {
      const std::vector<int32_t> none(at(outliers[at(row)]), -1);
      for (int64_t g = 0; g < shape.kv_heads; ++g) {
        copy(device, host.outlier_chunks(row, g), none.data(), static_cast<int64_t>(none.size()) * 4);
      }
    }
  }

  ResidentView view, host;

 private:
  std::unique_ptr<Regions> regions_;
};

inline double reference_dot(const float* a, const float* b, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

inline double reference_log_sum_exp(const std::vector<double>& x) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const double v : x) largest = std::max(largest, v);
  if (std::isinf(largest)) return largest;
  double sum = 0.0;
  for (const double v : x) sum += std::exp(v - largest);
  return largest + std::log(sum);
}

template <typename T>
std::vector<T> slice(const std::vector<T>& x, int64_t first, int64_t count) {
  return std::vector<T>(x.begin() + first, x.begin() + first + count);
}

// Spans (kernels.h) of rows of n scores, in float64.
inline std::vector<double> reference_spans(const std::vector<float>& scores, int64_t n) {
  std::vector<double> spans;
  for (int64_t row = 0; row < static_cast<int64_t>(scores.size()) / n; ++row) {
    for (int64_t first = 0; first < n; first += kSpanScores) {
      const std::vector<float> span = slice(scores, row * n + first, std::min(kSpanScores, n - first));
      const std::vector<double> x(span.begin(), span.end());
      const double largest = *std::max_element(x.begin(), x.end());
      spans.push_back(largest);
      spans.push_back(std::isinf(largest) ? 0.0 : std::exp(reference_log_sum_exp(x) - largest));
    }
  }
  return spans;
}

inline const auto kDevices = ::testing::ValuesIn(test_devices());

}  // namespace shadowkv::testing
