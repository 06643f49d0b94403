#include <gmock/gmock.h>

#include "base/utf8.h"
#include "formats/refusal.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/golden.h"
#include "tokenizer/normalize.h"
#include "tokenizer/normalizer.h"

namespace shadowkv::testing {
namespace {

TEST(Utf8, EveryCodePointComesBack) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    std::string bytes;
    append_utf8(bytes, c);
    const Utf8Unit unit = read_utf8(bytes);
    if (c >= 0xD800 && c <= 0xDFFF) {
      ASSERT_EQ(unit.kind, Utf8Kind::invalid);
      continue;
    }
    ASSERT_EQ(unit.kind, Utf8Kind::valid);
    ASSERT_EQ(unit.code_point, c);
    ASSERT_EQ(unit.length, static_cast<int64_t>(bytes.size()));
  }
}

TEST(Utf8, TheLongestStartOfACharacterBecomesOneReplacement) {
  const std::string r = "\uFFFD";
  const std::vector<std::pair<std::string, std::string>> cases = {{"a\xF0\x9F\x98", "a" + r},
                                                                  {"\xF0\x9F\x98z", r + "z"},
                                                                  {"\xE2\x82\xE2\x82\xAC", r + "\u20ac"},
                                                                  {"\xED\xA0\x80", r + r + r},
                                                                  {"\xC0\x80", r + r},
                                                                  {"\xF4\x90\x80\x80", r + r + r + r},
                                                                  {"\xF0\x80\x80", r + r + r},
                                                                  {"\x80\xBF", r + r},
                                                                  {"\xE0\x9F\x80", r + r + r},
                                                                  {"\xF5", r},
                                                                  {"\xC3", r},
                                                                  {"\xC3\xC3\xA9", r + "\u00e9"}};
  for (const auto& [bytes, text] : cases) {
    std::string out;
    EXPECT_EQ(append_lossy_utf8(out, bytes, false), static_cast<int64_t>(bytes.size()));
    EXPECT_EQ(out, text);
  }
}

TEST(ByteAlphabet, IsOneToOne) {
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    append_utf8(character, alphabet_character(static_cast<unsigned char>(byte)));
    EXPECT_EQ(alphabet_to_bytes(character), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(alphabet_character(' '), U'\u0120');
  EXPECT_EQ(alphabet_to_bytes("a b"), std::nullopt);
  EXPECT_EQ(alphabet_to_bytes("\u4e2d"), std::nullopt);
}

TEST(Normalize, MarksAreOrderedAndComposed) {
  EXPECT_EQ(normalize("e\u0301", UnicodeForm::nfc), "\u00e9");
  EXPECT_EQ(normalize("q\u0307\u0323", UnicodeForm::nfc), "q\u0323\u0307");
  EXPECT_EQ(normalize("\u212b\ufb01", UnicodeForm::nfc), "\u00c5\ufb01");
  EXPECT_EQ(normalize("\ufb01\u2460\u3392", UnicodeForm::nfkc), "fi1MHz");
  EXPECT_EQ(normalize("\u1112\u1161\u11ab", UnicodeForm::nfc), "\ud55c");
  EXPECT_EQ(normalize("\ufdfa", UnicodeForm::nfkc).find(' '), 6U);
}

TEST(Normalize, GivesWhatTheReferenceGives) {
  for (const nlohmann::json& line : read_lines("normalize.jsonl")) {
    const auto text = line[0].get<std::string>();
    EXPECT_EQ(normalize(text, UnicodeForm::nfc), line[1].get<std::string>()) << line[0];
    EXPECT_EQ(normalize(text, UnicodeForm::nfkc), line[2].get<std::string>()) << line[0];
  }
}

TEST(Normalize, IsIdempotentOnEveryCodePoint) {
  for (const UnicodeForm form : {UnicodeForm::nfc, UnicodeForm::nfkc}) {
    for (char32_t c = 1; c <= 0x10FFFF; ++c) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      std::string text;
      append_utf8(text, c);
      const std::string once = normalize(text, form);
      ASSERT_EQ(normalize(once, form), once) << "U+" << std::hex << static_cast<uint32_t>(c);
    }
  }
}

TEST(Normalizer, TakesItsStepsInOrder) {
  using Kind = NormalizerStep::Kind;
  const std::vector<NormalizerStep> steps = {{.kind = Kind::nfkc},
                                             {.kind = Kind::prepend, .content = "x "},
                                             {.kind = Kind::replace, .pattern = " +|y*$", .content = "_"}};
  const Normalizer normalizer(steps);
  EXPECT_EQ(normalizer.apply("\ufb01\u3000 ayy", 100), "x_fi_a_");
  EXPECT_EQ(normalizer.apply("", 100), "") << "neither prefix nor replacement";
}

TEST(Normalizer, ATextThatGrowsTooLongIsRefused) {
  const NormalizerStep step = {
      .kind = NormalizerStep::Kind::replace, .pattern = "a", .content = std::string(1000, 'a')};
  const std::vector<NormalizerStep> steps(32, step);  // would make 10^96 bytes
  EXPECT_THAT(refusal_of([&] { (void)Normalizer(steps).apply("a", 1'000'000); }),
              ::testing::HasSubstr("1000000"));
  EXPECT_EQ(Normalizer(std::span(steps).first(2)).apply("a", 1'000'000).size(), 1'000'000U);
}

}  // namespace
}  // namespace shadowkv::testing
