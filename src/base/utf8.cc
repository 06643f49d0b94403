#include "base/utf8.h"

#include <utf8proc.h>

namespace shadowkv {
namespace {

struct LeadByte {
  int length;                             // 0: no character starts with this byte
  unsigned char second_low, second_high;  // allowed range of the second byte
};

LeadByte classify_lead(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Alphabetic by the property Other_Alphabetic though its category is So: circled and squared Latin letters.
bool is_enclosed_letter(char32_t c) {
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189);
}

}  // namespace

Utf8Unit read_utf8(std::string_view bytes) {
  const auto first = static_cast<unsigned char>(bytes[0]);
  const LeadByte lead = classify_lead(first);
  if (lead.length == 0) return {Utf8Kind::invalid, 1, 0};
  if (lead.length == 1) return {Utf8Kind::valid, 1, first};
  char32_t code_point = first & (0xFFU >> (lead.length + 1));
  for (int i = 1; i < lead.length; ++i) {
    if (static_cast<size_t>(i) == bytes.size()) return {Utf8Kind::truncated, i, 0};
    const auto byte = static_cast<unsigned char>(bytes[static_cast<size_t>(i)]);
    const unsigned char low = i == 1 ? lead.second_low : 0x80;
    const unsigned char high = i == 1 ? lead.second_high : 0xBF;
    if (byte < low || byte > high) return {Utf8Kind::invalid, i, 0};
    code_point = (code_point << 6) | (byte & 0x3FU);
  }
  return {Utf8Kind::valid, lead.length, code_point};
}

void append_utf8(std::string& out, char32_t code_point) {
  const auto put = [&out](char32_t byte) {
    out.push_back(static_cast<char>(static_cast<unsigned char>(byte)));
  };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

std::optional<int64_t> find_invalid_utf8(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    if (static_cast<unsigned char>(bytes[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Unit unit = read_utf8(bytes.substr(at));
    if (unit.kind != Utf8Kind::valid) return static_cast<int64_t>(at);
    at += static_cast<size_t>(unit.length);
  }
  return std::nullopt;
}

int64_t append_lossy_utf8(std::string& out, std::string_view bytes, bool keep_truncated) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Unit unit = read_utf8(bytes.substr(at));
    if (unit.kind == Utf8Kind::truncated && keep_truncated) break;
    if (unit.kind == Utf8Kind::valid) {
      out.append(bytes.substr(at, static_cast<size_t>(unit.length)));
    } else {
      append_utf8(out, 0xFFFD);
    }
    at += static_cast<size_t>(unit.length);
  }
  return static_cast<int64_t>(at);
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word(char32_t c) {
  if (c == 0x200C || c == 0x200D || is_enclosed_letter(c)) return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

}  // namespace shadowkv
