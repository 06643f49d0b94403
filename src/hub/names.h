// Which names of repositories, revisions, files and blobs are taken: from a user, a hub or a folder.
#pragma once

#include <string>
#include <string_view>

namespace shadowkv {

// "org/name" as the hub allows it: letters, digits, '-', '_', '.', at most 96 in all.
[[nodiscard]] bool is_repository_name(std::string_view name);
// A branch, a tag or a commit; safe as a path below refs/.
[[nodiscard]] bool is_revision(std::string_view name);
// 40 hexadecimal digits in lower case.
[[nodiscard]] bool is_commit(std::string_view name);
// A relative path of plain components: no "..", nothing absolute, no control characters, at most 1,024 bytes.
[[nodiscard]] bool is_safe_path(std::string_view path);
// `text` consists of that many hexadecimal digits in lower case.
[[nodiscard]] bool is_hex(std::string_view text, std::size_t digits);
// With all but letters, digits and "-._~" as %XX; '/' too unless it is kept.
[[nodiscard]] std::string percent_encoded(std::string_view text, bool keep_slashes);

}  // namespace shadowkv
