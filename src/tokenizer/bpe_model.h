// Byte pair encoding of one piece of text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

// Threads share one, each with a Scratch of its own. Keeps views into the spec's tokens, which must outlive
// it.
class BpeModel {
 public:
  struct Symbol {
    int32_t id;              // -1: merged into an earlier symbol
    int32_t previous, next;  // places in the list, -1: none
  };
  struct Candidate {
    int32_t rank, place, left, right;
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  explicit BpeModel(const TokenizerSpec& spec);

  // Appends the ids of `piece` (valid UTF-8 where the unit is characters; not empty, under 2 GiB). What the
  // vocabulary lacks gives the tokens of its bytes, the unknown id or nothing.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  struct PairSlot {
    int32_t left = -1, right = -1, rank = 0, merged = 0;
  };

  void build_units();
  void build_pairs();
  void build_whole_pieces();
  void build_cuts();
  [[nodiscard]] bool spells_everything() const;  // no character is left out
  [[nodiscard]] bool stands_for_bytes(int32_t id) const;
  [[nodiscard]] size_t pair_slot(int32_t left, int32_t right) const;
  [[nodiscard]] int32_t find_whole(std::string_view piece) const;
  void insert_whole(int32_t id);
  void encode_uncut(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  void fill_symbols(std::string_view piece, Scratch& scratch) const;
  [[nodiscard]] int32_t unit_id(std::string_view unit) const;
  // Appends the tokens of the unit's bytes; false when one of them is missing.
  bool push_bytes(std::string_view unit, std::vector<Symbol>& symbols) const;
  void push_candidate(int32_t place, Scratch& scratch) const;
  void merge(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  const TokenizerSpec& spec_;
  std::vector<int32_t> unit_ids_;  // by byte or code point; -1 or beyond its end: none
  // By unit: no merge joins it to another unit before it, so that a piece can be cut between the two. Empty:
  // none is looked for.
  std::vector<bool> cuts_;
  std::vector<PairSlot> pairs_;  // open addressing, a power of two
  std::vector<int32_t> whole_;   // open addressing by bytes; pieces that are one token. -1: free
  size_t longest_whole_ = 0;
};

}  // namespace shadowkv
