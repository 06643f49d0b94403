#include "tokenizer/bpe_model.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "base/utf8.h"

namespace shadowkv {
namespace {

// Heap order: the lowest rank first, of equal ranks the leftmost.
bool comes_later(const BpeModel::Candidate& a, const BpeModel::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.place > b.place;
}

uint64_t hash_pair(int32_t left, int32_t right) {
  uint64_t key = (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
  key = (key ^ (key >> 32)) * 0x9E3779B97F4A7C15U;
  return key ^ (key >> 29);
}

size_t table_size(size_t entries) {
  return std::bit_ceil(2 * entries + 16);
}

std::string_view first_unit(SymbolUnit unit, std::string_view text) {
  return text.substr(0, unit == SymbolUnit::byte ? 1 : static_cast<size_t>(read_utf8(text).length));
}

// The byte or code point that `text` begins with.
size_t unit_number(SymbolUnit unit, std::string_view text) {
  return unit == SymbolUnit::byte ? static_cast<unsigned char>(text[0]) : read_utf8(text).code_point;
}

std::string_view last_character(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0U) == 0x80) --begin;
  return text.substr(begin);
}

void push_symbol(int32_t id, std::vector<BpeModel::Symbol>& symbols) {
  const auto place = static_cast<int32_t>(symbols.size());
  symbols.push_back({id, place - 1, place + 1});
}

}  // namespace

BpeModel::BpeModel(const TokenizerSpec& spec) : spec_(spec) {
  build_units();
  build_pairs();
  build_whole_pieces();
  if (spec_.unit == SymbolUnit::character && !spec_.ignore_merges && spells_everything()) build_cuts();
}

void BpeModel::build_units() {
  for (size_t id = 0; id < spec_.tokens.size(); ++id) {
    const TokenSpec& token = spec_.tokens[id];
    if (token.kind != TokenKind::model || token.bytes.empty()) continue;
    if (first_unit(spec_.unit, token.bytes).size() != token.bytes.size()) continue;
    const size_t number = unit_number(spec_.unit, token.bytes);
    if (number >= unit_ids_.size()) unit_ids_.resize(number + 1, -1);
    unit_ids_[number] = static_cast<int32_t>(id);
  }
}

void BpeModel::build_pairs() {
  pairs_.assign(table_size(spec_.merges.size()), PairSlot());
  for (const MergeSpec& merge : spec_.merges) {
    pairs_[pair_slot(merge.left, merge.right)] = {merge.left, merge.right, merge.rank, merge.merged};
  }
}

// A token counts as whole piece where merging its own bytes gives it, so that the short cut changes no
// result.
void BpeModel::build_whole_pieces() {
  whole_.assign(table_size(spec_.tokens.size()), -1);
  Scratch scratch;
  std::vector<int32_t> ids;
  for (size_t id = 0; id < spec_.tokens.size(); ++id) {
    const TokenSpec& token = spec_.tokens[id];
    if (token.kind != TokenKind::model || token.bytes.empty()) continue;
    ids.clear();
    if (!spec_.ignore_merges) merge(token.bytes, scratch, ids);
    if (spec_.ignore_merges || (ids.size() == 1 && ids[0] == static_cast<int32_t>(id))) {
      insert_whole(static_cast<int32_t>(id));
    }
  }
}

void BpeModel::insert_whole(int32_t id) {
  const std::string_view bytes = spec_.tokens[static_cast<size_t>(id)].bytes;
  longest_whole_ = std::max(longest_whole_, bytes.size());
  size_t slot = std::hash<std::string_view>()(bytes) & (whole_.size() - 1);
  while (whole_[slot] >= 0) slot = (slot + 1) & (whole_.size() - 1);
  whole_[slot] = id;
}

int32_t BpeModel::find_whole(std::string_view piece) const {
  if (piece.size() > longest_whole_) return -1;
  size_t slot = std::hash<std::string_view>()(piece) & (whole_.size() - 1);
  while (whole_[slot] >= 0 && spec_.tokens[static_cast<size_t>(whole_[slot])].bytes != piece) {
    slot = (slot + 1) & (whole_.size() - 1);
  }
  return whole_[slot];
}

// The slot of the pair, or the free one where it would stand.
size_t BpeModel::pair_slot(int32_t left, int32_t right) const {
  size_t slot = hash_pair(left, right) & (pairs_.size() - 1);
  while (pairs_[slot].left >= 0 && (pairs_[slot].left != left || pairs_[slot].right != right)) {
    slot = (slot + 1) & (pairs_.size() - 1);
  }
  return slot;
}

bool BpeModel::spells_everything() const {
  const std::vector<int32_t>& bytes = spec_.byte_fallback;
  return spec_.unknown_id >= 0 ||
         (!bytes.empty() && std::find(bytes.begin(), bytes.end(), -1) == bytes.end());
}

bool BpeModel::stands_for_bytes(int32_t id) const {
  return id == spec_.unknown_id ||
         std::find(spec_.byte_fallback.begin(), spec_.byte_fallback.end(), id) != spec_.byte_fallback.end();
}

// Vocabularies of characters come without cuts before spaces, yet hardly ever merge across one: cutting a
// book there makes words of it, most of which are one token, and gives the same ids.
void BpeModel::build_cuts() {
  cuts_.resize(unit_ids_.size());
  for (size_t number = 0; number < cuts_.size(); ++number) cuts_[number] = unit_ids_[number] >= 0;
  for (const MergeSpec& merge : spec_.merges) {
    const std::string_view left = spec_.tokens[static_cast<size_t>(merge.left)].bytes;
    const std::string_view right = spec_.tokens[static_cast<size_t>(merge.right)].bytes;
    if (left.empty() || right.empty()) continue;
    const std::string_view begin = first_unit(spec_.unit, right);
    if (last_character(left) == begin && !stands_for_bytes(merge.left)) continue;
    const size_t number = unit_number(spec_.unit, begin);
    if (number < cuts_.size()) cuts_[number] = false;
  }
}

void BpeModel::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (cuts_.empty()) return encode_uncut(piece, scratch, ids);
  size_t begin = 0;
  size_t previous = cuts_.size();
  for (size_t at = 0; at < piece.size();) {
    const std::string_view rest = piece.substr(at);
    const size_t number = unit_number(spec_.unit, rest);
    if (at > begin && number != previous && number < cuts_.size() && cuts_[number]) {
      encode_uncut(piece.substr(begin, at - begin), scratch, ids);
      begin = at;
    }
    previous = number;
    at += first_unit(spec_.unit, rest).size();
  }
  encode_uncut(piece.substr(begin), scratch, ids);
}

void BpeModel::encode_uncut(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  const int32_t whole = find_whole(piece);
  if (whole >= 0) {
    ids.push_back(whole);
  } else {
    merge(piece, scratch, ids);
  }
}

int32_t BpeModel::unit_id(std::string_view unit) const {
  const size_t number = unit_number(spec_.unit, unit);
  return number < unit_ids_.size() ? unit_ids_[number] : -1;
}

bool BpeModel::push_bytes(std::string_view unit, std::vector<Symbol>& symbols) const {
  if (spec_.byte_fallback.empty()) return false;
  const auto token_of = [&](char byte) { return spec_.byte_fallback[static_cast<unsigned char>(byte)]; };
  if (std::any_of(unit.begin(), unit.end(), [&](char byte) { return token_of(byte) < 0; })) return false;
  for (const char byte : unit) push_symbol(token_of(byte), symbols);
  return true;
}

// As in the `tokenizers` package an unknown token waits for a known unit, another unknown one or the end;
// tokens of bytes go before it.
void BpeModel::fill_symbols(std::string_view piece, Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  symbols.clear();
  bool unknown_waits = false;
  for (std::string_view unit; !piece.empty(); piece.remove_prefix(unit.size())) {
    unit = first_unit(spec_.unit, piece);
    const int32_t id = unit_id(unit);
    if (id < 0 && (push_bytes(unit, symbols) || spec_.unknown_id < 0)) continue;
    if (unknown_waits && (id >= 0 || !spec_.fuse_unknown)) push_symbol(spec_.unknown_id, symbols);
    if (id >= 0) push_symbol(id, symbols);
    unknown_waits = id < 0;
  }
  if (unknown_waits) push_symbol(spec_.unknown_id, symbols);
  if (!symbols.empty()) symbols.back().next = -1;
}

void BpeModel::push_candidate(int32_t place, Scratch& scratch) const {
  if (place < 0) return;
  const Symbol& left = scratch.symbols[static_cast<size_t>(place)];
  if (left.next < 0) return;
  const int32_t right_id = scratch.symbols[static_cast<size_t>(left.next)].id;
  const PairSlot& pair = pairs_[pair_slot(left.id, right_id)];
  if (pair.left < 0) return;
  scratch.heap.push_back({pair.rank, place, left.id, right_id});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), comes_later);
}

void BpeModel::merge(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  fill_symbols(piece, scratch);
  std::vector<Symbol>& symbols = scratch.symbols;
  scratch.heap.clear();
  for (size_t place = 0; place < symbols.size(); ++place)
    push_candidate(static_cast<int32_t>(place), scratch);
  while (!scratch.heap.empty()) {
    std::pop_heap(scratch.heap.begin(), scratch.heap.end(), comes_later);
    const Candidate top = scratch.heap.back();
    scratch.heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(top.place)];
    if (left.id != top.left || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (right.id != top.right) continue;
    left.id = pairs_[pair_slot(top.left, top.right)].merged;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = top.place;
    push_candidate(left.previous, scratch);
    push_candidate(top.place, scratch);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

}  // namespace shadowkv
