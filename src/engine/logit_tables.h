// What the device keeps of its sequences' changes of logits, so that a step brings only what is new: of a
// marked token one entry in the row that the step uploads anyway, of a mask its bits where they differ from
// the step before. A whole list travels when a sequence begins, comes back, or has outgrown its memory. All
// of it is taken before the step and counts as Purpose::sampling; its addresses stand in the step's rows, so
// that a recorded step serves whatever is held.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/device.h"
#include "base/staged_upload.h"
#include "engine/logit_changes.h"

namespace shadowkv {

class LogitTables {
 public:
  explicit LogitTables(Device& device) : device_(device), masks_(device) {}

  // A step: begin, row() for each sequence that changes or ranks logits, send, the step itself, finish. After
  // a step that was not finished everything travels again. masks: of rows that have one, at most.
  void begin(int64_t masks, int64_t vocab);
  // key: the method, the sequence. On the device; good until its next row().
  using Key = std::pair<int64_t, int64_t>;
  [[nodiscard]] LogitRow row(const Key& key, const LogitChanges& changes);
  void send();
  void finish() noexcept;

  // Gives back what is held for a sequence, under any method.
  void forget(int64_t sequence) noexcept;

 private:
  struct Table {
    std::shared_ptr<const char> whose;
    bool is_current = false;  // whether the device has all of what follows
    int64_t version = 0;      // of the marked tokens
    std::vector<uint64_t> mask_bits;
    Buffer marked, mask, raw;
  };
  void keep_marked(Table& table, const LogitChanges& changes, bool is_current, LogitRow& row);
  void keep_mask(Table& table, const LogitChanges& changes, bool is_current, LogitRow& row);
  void grow(Buffer& buffer, int64_t bytes);

  Device& device_;
  int64_t vocab_ = 0;
  std::map<Key, Table> tables_;
  std::vector<Table*> of_step_;
  StagedUpload masks_;
  int64_t fresh_masks_ = 0;  // of the step
  std::byte* staged_ = nullptr;
};

}  // namespace shadowkv
