// The parts of a tokenizer.json around its model. Each reader adds what it finds to the spec, or throws
// InvalidInput naming the construct that is not supported.
#pragma once

#include "tokenizer/json_fields.h"
#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

// The part may be null for none of these but the pre-tokenizer and the decoder, which must be byte-level.
void read_normalizer(const JsonPart& part, TokenizerSpec& spec);
void read_pre_tokenizer(const JsonPart& part, TokenizerSpec& spec);
void read_post_processor(const JsonPart& part, TokenizerSpec& spec);
void check_decoder(const JsonPart& part);

}  // namespace shadowkv
