// Merges of a vocabulary that lists tokens by rank instead of pairs, as SentencePiece and tiktoken do: any
// two neighbours merge that together are a token, the one of the lowest rank first.
#pragma once

#include <cstdint>
#include <span>

#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

// Adds a merge for every way to cut a token that merges make into two such tokens. `ranks` has one by id.
// Time grows with the bytes of the vocabulary. Throws InvalidInput when the vocabulary is too long or gives
// more merges than any that is published.
void add_ranked_merges(std::span<const int32_t> ranks, TokenizerSpec& spec);

}  // namespace shadowkv
