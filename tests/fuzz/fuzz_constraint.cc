// A pattern or, where the first byte is even, a JSON schema; what is taken is followed for some tokens.
#include "constraint/constraint.h"
#include "fuzz/fuzz.h"

namespace shadowkv::testing {
namespace {

std::shared_ptr<const Vocabulary> every_byte() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
  for (const char* text : {"ab", "{\"", "\": ", "null", "12"}) texts.emplace_back(text);
  return std::make_shared<const Vocabulary>(std::move(texts));
}

// Takes the allowed token that the text points to, again and again.
void follow(const std::shared_ptr<const Constraint>& constraint, std::string_view text) {
  ConstraintPosition position(constraint);
  for (std::size_t i = 0; i < 4 && position.can_go_on(); ++i) {
    const auto mask = position.mask();
    int32_t id = static_cast<unsigned char>(text[i % text.size()]), tried = 0;
    for (; tried < 261 && (mask[static_cast<std::size_t>(id) / 64] >> (id % 64) & 1) == 0; ++tried)
      id = (id + 1) % 261;
    if (tried == 261) std::abort();  // a dead end
    position.take(id);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  static const auto vocabulary = every_byte();
  const std::string_view text = text_of(data + 1, size - 1);
  const auto kind = data[0] % 2 == 0 ? ConstraintKind::json_schema : ConstraintKind::regex;
  take_or_refuse([&] { follow(std::make_shared<const Constraint>(kind, text, vocabulary), text); });
  return 0;
}

}  // namespace shadowkv::testing
