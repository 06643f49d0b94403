// Unicode normalization forms.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace shadowkv {

enum class UnicodeForm : uint8_t { nfc, nfkc };

// `text` must be valid UTF-8. Time is n log n whatever the text: runs of combining marks are sorted, not
// bubbled.
[[nodiscard]] std::string normalize(std::string_view text, UnicodeForm form);

}  // namespace shadowkv
