#include "engine/logit_tables.h"

#include <algorithm>
#include <utility>

namespace shadowkv {
namespace {

int64_t bytes_of(const std::vector<MarkedToken>& marked) {
  return std::ssize(marked) * static_cast<int64_t>(sizeof(MarkedToken));
}

int64_t mask_bytes(int64_t vocab) {
  return mask_words(vocab) * static_cast<int64_t>(sizeof(uint64_t));
}

}  // namespace

void LogitTables::begin(int64_t masks, int64_t vocab) {
  vocab_ = vocab;
  of_step_.clear();
  fresh_masks_ = 0;
  staged_ = masks > 0 ? masks_.host(masks * mask_bytes(vocab)) : nullptr;
}

LogitRow LogitTables::row(const Key& key, const LogitChanges& changes) {
  Table& table = tables_[key];
  of_step_.push_back(&table);
  const bool is_current = std::exchange(table.is_current, false) && table.whose == changes.identity();
  table.whose = changes.identity();
  LogitRow row = changes.settings();
  keep_marked(table, changes, is_current, row);
  keep_mask(table, changes, is_current, row);
  if (row.likeliest >= 0 && row.changes()) {
    grow(table.raw, vocab_ * size_of(DType::f32));
    row.raw = reinterpret_cast<float*>(table.raw.data());
  }
  return row;
}

void LogitTables::grow(Buffer& buffer, int64_t bytes) {
  if (bytes <= buffer.bytes()) return;
  buffer = Buffer();
  buffer = device_.allocate(Tier::device, Purpose::sampling, bytes);
}

void LogitTables::keep_marked(Table& table, const LogitChanges& changes, bool is_current, LogitRow& row) {
  constexpr int64_t kLeast = 64;
  const std::vector<MarkedToken>& marked = changes.marked();
  const int64_t changed = changes.version() - std::exchange(table.version, changes.version());
  if (marked.empty()) return;
  const bool fits = bytes_of(marked) <= table.marked.bytes();
  if (!fits) {
    const int64_t room = std::min(vocab_, std::max(kLeast, 2 * std::ssize(marked)));
    grow(table.marked, room * static_cast<int64_t>(sizeof(MarkedToken)));
  }
  row.marked = reinterpret_cast<MarkedToken*>(table.marked.data());
  row.marked_count = static_cast<int32_t>(marked.size());
  if (!fits || !is_current || changed > 1) {
    device_.compute().copy(row.marked, marked.data(), bytes_of(marked));
  } else if (changed == 1) {
    row.fresh_place = changes.latest();
    row.fresh = marked[static_cast<std::size_t>(changes.latest())];
  }
}

void LogitTables::keep_mask(Table& table, const LogitChanges& changes, bool is_current, LogitRow& row) {
  const std::vector<uint64_t>& bits = changes.mask();
  if (!is_current) table.mask_bits.clear();
  if (bits.empty()) return;
  const int64_t bytes = mask_bytes(vocab_);
  grow(table.mask, bytes);
  row.mask = reinterpret_cast<uint64_t*>(table.mask.data());
  if (table.mask_bits == bits) return;
  const int64_t offset = bytes * fresh_masks_++;
  std::copy(bits.begin(), bits.end(), reinterpret_cast<uint64_t*>(staged_ + offset));
  row.fresh_mask = reinterpret_cast<const uint64_t*>(masks_.device() + offset);
  table.mask_bits = bits;
}

void LogitTables::send() {
  if (fresh_masks_ > 0) masks_.send(fresh_masks_ * mask_bytes(vocab_));
}

void LogitTables::finish() noexcept {
  for (Table* table : of_step_) table->is_current = true;
  of_step_.clear();
}

void LogitTables::forget(int64_t sequence) noexcept {
  std::erase_if(tables_, [sequence](const auto& entry) { return entry.first.second == sequence; });
  of_step_.clear();
}

}  // namespace shadowkv
