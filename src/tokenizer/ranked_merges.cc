#include "tokenizer/ranked_merges.h"

#include <algorithm>

#include "base/check.h"

namespace shadowkv {
namespace {

// The largest vocabularies published have 2 MiB and a million ways to cut their tokens.
constexpr int64_t kMaxVocabularyBytes = int64_t{64} << 20;
constexpr int64_t kMaxMerges = int64_t{1} << 23;

struct Piece {
  std::string_view bytes;
  int32_t id;
};

std::vector<Piece> pieces_of(const TokenizerSpec& spec) {
  std::vector<Piece> pieces;
  int64_t bytes = 0;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const TokenSpec& token = spec.tokens[id];
    if (token.kind != TokenKind::model || token.bytes.empty()) continue;
    pieces.push_back({token.bytes, static_cast<int32_t>(id)});
    bytes += static_cast<int64_t>(token.bytes.size());
  }
  require(bytes <= kMaxVocabularyBytes, "{}: the vocabulary has {} bytes; at most {} are supported",
          spec.origin, bytes, kMaxVocabularyBytes);
  return pieces;
}

// By id: the longest other piece that the piece begins with; -1: none. Following it from piece to piece gives
// all of them, the longest first.
std::vector<int32_t> longest_beginnings(std::vector<Piece> pieces, size_t ids) {
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.bytes < b.bytes; });
  std::vector<int32_t> beginnings(ids, -1);
  std::vector<const Piece*> open;  // each begins with the one before
  for (const Piece& piece : pieces) {
    while (!open.empty() && !piece.bytes.starts_with(open.back()->bytes)) open.pop_back();
    if (!open.empty()) beginnings[static_cast<size_t>(piece.id)] = open.back()->id;
    open.push_back(&piece);
  }
  return beginnings;
}

std::vector<int32_t> longest_endings(const std::vector<Piece>& pieces, size_t ids) {
  std::vector<std::string> backwards;
  backwards.reserve(pieces.size());
  std::vector<Piece> reversed;
  for (const Piece& piece : pieces) {
    backwards.emplace_back(piece.bytes.rbegin(), piece.bytes.rend());
    reversed.push_back({backwards.back(), piece.id});
  }
  return longest_beginnings(std::move(reversed), ids);
}

}  // namespace

void add_ranked_merges(std::span<const int32_t> ranks, TokenizerSpec& spec) {
  const std::vector<Piece> pieces = pieces_of(spec);
  const std::vector<int32_t> beginnings = longest_beginnings(pieces, spec.tokens.size());
  const std::vector<int32_t> endings = longest_endings(pieces, spec.tokens.size());
  const auto size_of = [&](int32_t id) { return spec.tokens[static_cast<size_t>(id)].bytes.size(); };
  const auto shorter = [](const std::vector<int32_t>& links, int32_t id) {
    return links[static_cast<size_t>(id)];
  };
  std::vector<int32_t> rights;  // endings of one piece, the longest first
  for (const Piece& piece : pieces) {
    rights.clear();
    for (int32_t id = shorter(endings, piece.id); id >= 0; id = shorter(endings, id)) rights.push_back(id);
    int32_t left = shorter(beginnings, piece.id);
    while (left >= 0 && !rights.empty()) {
      const int32_t right = rights.back();
      const size_t together = size_of(left) + size_of(right);
      if (together == piece.bytes.size()) {
        spec.merges.push_back({left, right, piece.id, ranks[static_cast<size_t>(piece.id)]});
      }
      if (together >= piece.bytes.size()) left = shorter(beginnings, left);
      if (together <= piece.bytes.size()) rights.pop_back();
    }
    require(static_cast<int64_t>(spec.merges.size()) <= kMaxMerges,
            "{}: the vocabulary's tokens can be cut in more than {} ways, which is not supported",
            spec.origin, kMaxMerges);
  }
}

}  // namespace shadowkv
