// Tokenizer files write their patterns for Oniguruma; the engine underneath is PCRE2. The two agree on most
// of the syntax and disagree on a few classes and quantifiers.
#pragma once

#include <string>
#include <string_view>

namespace shadowkv {

// The same pattern for PCRE2 (UTF, UCP, MULTILINE). Throws InvalidInput naming the construct where the
// dialects differ in a way that is not translated.
[[nodiscard]] std::string oniguruma_to_pcre2(std::string_view pattern);

// A pattern that matches `text` itself.
[[nodiscard]] std::string quote_pattern(std::string_view text);

}  // namespace shadowkv
