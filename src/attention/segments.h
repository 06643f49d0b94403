// Segments: absolute ranges of tokens that share what describes their keys, per layer: the mean and the basis
// of the keys before rotation, and the centre of the rotated keys that the sketch is taken around. Fixed by
// the first write into the range and never changed; a range that a prompt brings too few tokens into, and
// every range that generation enters, inherits the one before by address.
#pragma once

#include <memory>
#include <vector>

#include "attention/attention.h"
#include "attention/exact_prefill.h"
#include "base/memory_piece.h"
#include "cache/device_array.h"
#include "kernels/views.h"

namespace shadowkv {

class Segments {
 public:
  // Without any where keys are kept whole. tokens: of a segment, 0 for one a prompt; multiples of chunk are
  // made of it.
  Segments(const AttentionShape& shape, const AttentionConfig& config, Device& device);

  struct Range {
    int64_t first = 0;
    int64_t end = 0;
  };
  // Decides which segments of a prompt have bases of their own and makes room for them.
  void begin(int64_t row, int64_t prompt_tokens, int64_t max_tokens);
  // Likewise of tokens [first, end) that follow what the row holds: those of its segments that they begin,
  // and bring enough into, have bases of their own. Throws OutOfMemory and then changes nothing.
  void extend(int64_t row, int64_t first, int64_t end);
  // Forgets segments from token `first` on that extend() added.
  void truncate(int64_t row, int64_t first);
  // Like begin(), with the given ranges for those that have bases of their own.
  void restore(int64_t row, std::vector<Range> fitted, int64_t max_tokens);
  // Whether tokens [0, end) can have such ranges.
  [[nodiscard]] bool can_hold(const std::vector<Range>& fitted, int64_t end) const;
  void add_memory(int64_t row, std::vector<MemoryPiece>& to) const;
  [[nodiscard]] int64_t memory_bytes(int64_t fitted) const { return fitted * shape_.layers * layer_bytes(); }
  // Fits mean, basis and centre of one layer, of the segments of a prompt that begin within the range.
  void fit(int64_t row, const RawLayer& raw, int64_t layer, const Range& range);
  // After begin(): bases of made-up directions around a mean of zero.
  void fill(int64_t row, uint64_t seed);
  void release(int64_t row);
  // An empty row has the segments of another from then on, for max_tokens tokens.
  void share(int64_t from, int64_t to, int64_t max_tokens);
  // What others use as well leaves the device with the last of them, and comes back with the first.
  void move(int64_t row, Tier to);
  void upload_tables(Queue& queue) { table_.upload(queue); }

  [[nodiscard]] int64_t tokens() const { return segment_tokens_; }
  [[nodiscard]] int64_t bytes_for(int64_t prompt_tokens) const { return bytes_for(0, prompt_tokens); }
  [[nodiscard]] int64_t bytes_for(int64_t first, int64_t end) const;  // that extend() or begin() take
  [[nodiscard]] int64_t held_bytes(Tier tier) const;                  // of all rows, shared ones once
  // Token ranges [first, end) of the row's segments that a prompt fitted, in order.
  [[nodiscard]] const std::vector<Range>& fitted(int64_t row) const;
  // The next place from `token` on where a prompt of `tokens` can be cut: all before it use segments that
  // begin before it.
  [[nodiscard]] int64_t fitted_end(int64_t row, int64_t token, int64_t tokens) const;

  // What describes the keys of a layer's token, of a row on the device.
  struct Description {
    TensorView basis;   // [R, W] in the device's activation type
    TensorView mean;    // [W] float32
    TensorView centre;  // likewise
  };
  [[nodiscard]] Description description(int64_t row, int64_t layer, int64_t position) const;

  [[nodiscard]] PagedView mean(Queue& queue, int64_t layer);
  [[nodiscard]] PagedView basis(Queue& queue, int64_t layer);
  [[nodiscard]] PagedView centre(Queue& queue, int64_t layer);

 private:
  struct Row {
    std::vector<Range> fitted;
    std::vector<std::shared_ptr<Buffer>> buffers;  // one a fitted range, all layers; may be others' too
    bool is_on_host = false;                       // where they do not serve others
  };

  [[nodiscard]] std::vector<Range> split(int64_t first, int64_t end) const;
  [[nodiscard]] std::shared_ptr<Buffer> allocate();
  void fit_table(std::size_t row, int64_t max_tokens);
  [[nodiscard]] bool serves_others(const Row& row, const std::shared_ptr<Buffer>& buffer) const;
  void write_table(std::size_t row);
  [[nodiscard]] Description describe(const Buffer& buffer, int64_t layer) const;
  [[nodiscard]] int64_t layer_bytes() const;
  [[nodiscard]] int64_t basis_bytes() const;
  [[nodiscard]] int64_t mean_bytes() const { return shape_.kv_width() * size_of(DType::f32); }
  [[nodiscard]] PagedView view(Queue& queue, int64_t layer, int64_t bytes, DType dtype);

  AttentionShape shape_;
  Device& device_;
  DType basis_dtype_;
  int64_t rank_;
  bool fits_;  // whether prompts have any
  int64_t segment_tokens_;
  int64_t min_tokens_;
  std::vector<Row> rows_;
  int64_t stride_ = 0;             // segments a row of the table has room for
  DeviceArray<std::byte*> table_;  // [rows, stride_]
};

}  // namespace shadowkv
