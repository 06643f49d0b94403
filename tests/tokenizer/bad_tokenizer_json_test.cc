#include <gmock/gmock.h>

#include <random>

#include "formats/refusal.h"
#include "formats/temporary_file.h"
#include "tokenizer/golden.h"

namespace shadowkv::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

json small_file() {
  return json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing",
                       "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                       "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
              "vocab": {"a": 0, "b": 1, "ab": 2, "abab": 9}, "merges": [["a", "b"], "ab ab"]}})");
}

// Of characters, as SentencePiece's vocabularies are converted.
json character_file() {
  json file = small_file();
  file["normalizer"] = json::parse(R"({"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]})");
  file["pre_tokenizer"] = nullptr;
  file["decoder"] = json::parse(R"({"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  file["model"]["byte_fallback"] = true;
  file["model"]["vocab"]["\u2581"] = 5;
  file["model"]["vocab"]["<0xC3>"] = 6;
  file["model"]["vocab"]["<0xA9>"] = 7;
  return file;
}

std::shared_ptr<const Tokenizer> load(std::string_view text) {
  const TemporaryFolder folder;
  return Tokenizer::open(folder.write("tokenizer.json", text));
}

// What loading says when the value at `pointer` is replaced.
std::string complaint(const char* pointer, const json& value, json file = small_file()) {
  file[json::json_pointer(pointer)] = value;
  return refusal_of([&] { (void)load(file.dump()); });
}

std::string complaint(const char* pointer, const char* value) {
  return complaint(pointer, json::parse(value));
}

TEST(SmallTokenizerJson, LoadsWithHolesAndMergesOfBothForms) {
  const auto tokenizer = load(small_file().dump());
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  EXPECT_EQ(tokenizer->encode("abab<s>ba"), (std::vector<int32_t>{4, 9, 4, 1, 0}));
  EXPECT_FALSE(tokenizer->has_token(3));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{2, 3, 0}, false), "aba");
  EXPECT_EQ(tokenizer->encode("axb"), (std::vector<int32_t>{4, 2})) << "a byte without token is left out";
}

std::string character_complaint(const char* pointer, const char* value) {
  return complaint(pointer, json::parse(value), character_file());
}

TEST(SmallTokenizerJson, LoadsCharactersWithSomeBytes) {
  const auto tokenizer = load(character_file().dump());
  EXPECT_EQ(tokenizer->encode("abab b"), (std::vector<int32_t>{4, 5, 9, 5, 1}));
  EXPECT_EQ(tokenizer->encode("a\u00e9b"), (std::vector<int32_t>{4, 5, 0, 6, 7, 1}));
  EXPECT_EQ(tokenizer->encode("a\u00eab"), (std::vector<int32_t>{4, 5, 2})) << "a character without bytes";
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{5, 0, 6, 7, 5, 5, 1}, false), "a\u00e9  b");
}

TEST(BadTokenizerJson, WhatIsNotJsonIsRefused) {
  for (const char* text :
       {"", "{", "[]", "null", "\xFF", R"({"model": 3})", R"({"model": {"type": "BPE"}})"}) {
    EXPECT_NE(refusal_of([&] { (void)load(text); }), "") << text;
  }
}

TEST(BadTokenizerJson, DeepNestingIsRefused) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THAT(refusal_of([&] { (void)load(deep); }), HasSubstr("deep"));
}

TEST(BadTokenizerJson, AKeyThatAppearsTwiceIsRefused) {
  EXPECT_THAT(refusal_of([&] { (void)load(R"({"model": {"vocab": {"a": 0, "a": 1}}})"); }),
              HasSubstr("twice"));
}

TEST(BadTokenizerJson, AnUnsupportedConstructIsNamed) {
  EXPECT_THAT(complaint("/model/type", R"("Unigram")"), HasSubstr("Unigram"));
  EXPECT_THAT(complaint("/model/dropout", "0.1"), HasSubstr("dropout"));
  EXPECT_THAT(complaint("/model/continuing_subword_prefix", R"("##")"),
              HasSubstr("continuing_subword_prefix"));
  EXPECT_THAT(complaint("/model/end_of_word_suffix", R"("</w>")"), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(complaint("/model/byte_fallback", "true"), HasSubstr("byte_fallback"));
  EXPECT_THAT(complaint("/truncation", R"({"max_length": 3})"), HasSubstr("truncation"));
  EXPECT_THAT(complaint("/padding", R"({"pad_id": 3})"), HasSubstr("padding"));
  EXPECT_THAT(complaint("/normalizer", R"({"type": "Lowercase"})"), HasSubstr("Lowercase"));
  EXPECT_THAT(complaint("/normalizer",
                        R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]})"),
              AllOf(HasSubstr("Strip"), HasSubstr("[1]")));
  EXPECT_THAT(complaint("/pre_tokenizer", R"({"type": "BertPreTokenizer"})"), HasSubstr("BertPreTokenizer"));
  EXPECT_THAT(complaint("/post_processor", R"({"type": "BertProcessing"})"), HasSubstr("BertProcessing"));
  EXPECT_THAT(complaint("/decoder", R"({"type": "WordPiece"})"), HasSubstr("WordPiece"));
}

TEST(BadTokenizerJson, AVocabularyThatIsNotByteLevelIsRefused) {
  EXPECT_THAT(complaint("/pre_tokenizer", "null"), HasSubstr("ByteLevel"));
  EXPECT_THAT(complaint("/decoder", "null"), HasSubstr("ByteLevel"));
  EXPECT_THAT(complaint("/decoder", R"({"type": "Sequence", "decoders": []})"), HasSubstr("ByteLevel"));
  EXPECT_THAT(complaint("/pre_tokenizer", R"({"type": "Digits", "individual_digits": true})"),
              HasSubstr("ByteLevel"));
  EXPECT_THAT(complaint("/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [
                {"type": "ByteLevel", "add_prefix_space": false}, {"type": "Digits", "individual_digits": true}]})"),
              HasSubstr("after ByteLevel"));
}

TEST(BadTokenizerJson, ABadSplitIsRefused) {
  const auto split = [](const std::string& pattern, const std::string& behavior) {
    const json step = {
        {"type", "Split"}, {"pattern", json::parse(pattern)}, {"behavior", behavior}, {"invert", false}};
    return complaint("/pre_tokenizer", json{{"type", "Sequence"}, {"pretokenizers", {step}}});
  };
  EXPECT_THAT(split(R"({"Regex": "a"})", "Sideways"), HasSubstr("Sideways"));
  EXPECT_THAT(split(R"({"String": ""})", "Isolated"), HasSubstr("empty"));
  EXPECT_THAT(split(R"({"Glob": "a"})", "Isolated"), HasSubstr("String"));
  json file = small_file();
  const json step = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}, {"invert", false}};
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {step, small_file()["pre_tokenizer"]}}};
  EXPECT_THAT(refusal_of([&] { (void)load(file.dump()); }), HasSubstr("(a"));
  json many = json::array();
  for (int i = 0; i < 40; ++i) many.push_back({{"type", "Digits"}, {"individual_digits", true}});
  many.push_back(small_file()["pre_tokenizer"]);
  EXPECT_THAT(complaint("/pre_tokenizer", json{{"type", "Sequence"}, {"pretokenizers", many}}),
              HasSubstr("41 steps"));
}

TEST(BadTokenizerJson, ABadNormalizerIsRefused) {
  const auto step = [](const char* text) { return character_complaint("/normalizer", text); };
  EXPECT_THAT(step(R"({"type": "Prepend"})"), HasSubstr("'prepend'"));
  EXPECT_THAT(step(R"({"type": "Prepend", "prepend": 3})"), HasSubstr("'prepend'"));
  EXPECT_THAT(step(R"({"type": "Replace", "content": "x"})"), HasSubstr("'pattern'"));
  EXPECT_THAT(step(R"({"type": "Replace", "pattern": {"String": ""}, "content": "x"})"), HasSubstr("empty"));
  EXPECT_THAT(step(R"({"type": "Replace", "pattern": {"String": " "}})"), HasSubstr("'content'"));
  EXPECT_THAT(step(R"({"type": "Replace", "pattern": {"Regex": "(a"}, "content": "x"})"), HasSubstr("(a"));
  EXPECT_THAT(step(R"({"type": "Strip", "strip_left": true, "strip_right": true})"), HasSubstr("Strip"));
  const json wide = {{"type", "Prepend"}, {"prepend", std::string(1025, 'x')}};
  EXPECT_THAT(complaint("/normalizer", wide, character_file()), HasSubstr("1025 bytes"));
  const json many = {{"type", "Sequence"}, {"normalizers", json(40, json{{"type", "NFC"}})}};
  EXPECT_THAT(complaint("/normalizer", many, character_file()), HasSubstr("40 steps"));
}

TEST(BadTokenizerJson, ABadMetaspaceIsRefused) {
  const auto step = [](const char* text) { return character_complaint("/pre_tokenizer", text); };
  EXPECT_EQ(step(R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false})"), "");
  EXPECT_THAT(step(R"({"type": "Metaspace"})"), HasSubstr("'replacement'"));
  EXPECT_THAT(step(R"({"type": "Metaspace", "replacement": "ab"})"), HasSubstr("\"ab\""));
  EXPECT_THAT(step(R"({"type": "Metaspace", "replacement": ""})"), HasSubstr("one character"));
  EXPECT_THAT(step(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})"),
              AllOf(HasSubstr("prepend_scheme"), HasSubstr("\"last\"")));
  EXPECT_THAT(step(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": 1})"),
              HasSubstr("prepend_scheme"));
  EXPECT_THAT(step(R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": 1})"),
              HasSubstr("add_prefix_space"));
  EXPECT_THAT(
      step(
          R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "add_prefix_space": false})"),
      AllOf(HasSubstr("add_prefix_space"), HasSubstr("\"first\"")));
  EXPECT_THAT(step(R"({"type": "Metaspace", "replacement": "_", "split": "yes"})"), HasSubstr("split"));
}

TEST(BadTokenizerJson, ABadDecoderOfCharactersIsRefused) {
  const auto step = [](const char* text) { return character_complaint("/decoder", text); };
  EXPECT_THAT(step("null"), HasSubstr("decoder"));
  EXPECT_THAT(step(R"({"type": "ByteLevel"})"), HasSubstr("ByteLevel"));
  EXPECT_THAT(step(R"({"type": "Sequence", "decoders": [{"type": "ByteLevel"}]})"), HasSubstr("ByteLevel"));
  EXPECT_THAT(step(R"({"type": "Strip", "content": " ", "start": 1, "stop": 0})"), HasSubstr("Fuse"));
  EXPECT_THAT(step(R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]})"),
              AllOf(HasSubstr("[1]"), HasSubstr("\"ByteFallback\""), HasSubstr("after Fuse")));
  EXPECT_THAT(
      step(
          R"({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "_"}]})"),
      HasSubstr("after ByteFallback"));
  const auto strip = [](const char* key, const char* value) {
    return character_complaint((std::string("/decoder/decoders/3/") + key).c_str(), value);
  };
  EXPECT_THAT(strip("content", R"("  ")"), HasSubstr("one character"));
  EXPECT_THAT(strip("start", "-1"), HasSubstr("-1"));
  EXPECT_THAT(strip("start", "1.5"), HasSubstr("'start'"));
  EXPECT_THAT(strip("stop", "2"), HasSubstr("2"));
  EXPECT_THAT(strip("stop", "null"), HasSubstr("'stop'"));
  EXPECT_THAT(character_complaint("/decoder/decoders/0/content", "1"), HasSubstr("'content'"));
  const json wide = std::string(1025, 'x');
  EXPECT_THAT(complaint("/decoder/decoders/0/content", wide, character_file()), HasSubstr("1025 bytes"));
  const json replace = character_file()["decoder"]["decoders"][0];
  EXPECT_THAT(
      complaint("/decoder", json{{"type", "Sequence"}, {"decoders", json(40, replace)}}, character_file()),
      HasSubstr("40 steps"));
}

TEST(BadTokenizerJson, AddedTokensThatNormalizationMakesTooLongAreRefused) {
  json file = character_file();
  file["normalizer"] = {
      {"type", "Replace"}, {"pattern", {{"String", "<"}}}, {"content", std::string(1024, 'x')}};
  json token = file["added_tokens"][0];
  token["normalized"] = true;
  for (int i = 0; i < 2200; ++i) {  // 31 KiB each
    token["id"] = 10 + i;
    token["content"] = std::to_string(i) + std::string(31, '<');
    file["added_tokens"].push_back(token);
  }
  EXPECT_THAT(refusal_of([&] { (void)load(file.dump()); }), HasSubstr("67108864"));
}

// What is left of a damaged file loads or is refused, and encodes without harm when it loads.
TEST(BadTokenizerJson, DamageIsRefusedOrHarmless) {
  std::mt19937 random(1);
  for (const json& whole : {small_file(), character_file()}) {
    for (int i = 0; i < 1500; ++i) {
      std::string text = whole.dump();
      for (int damage = 0; damage < 3; ++damage) {
        const size_t at = random() % text.size();
        const std::string other = text.substr(random() % text.size(), random() % 9);
        text.replace(at, random() % 9,
                     random() % 2 == 0 ? other : std::string(1, static_cast<char>(random())));
      }
      (void)refusal_of([&] {
        const auto tokenizer = load(text);
        const auto ids = tokenizer->encode("abab <s> a\u00e9b <0x41>\u2581ba");
        (void)tokenizer->decode(ids, false);
      });
    }
  }
}

TEST(BadTokenizerJson, IdsOutOfRangeOrTakenAreRefused) {
  EXPECT_THAT(complaint("/model/vocab/a", "-1"), HasSubstr("-1"));
  EXPECT_THAT(complaint("/model/vocab/a", "2147483647"), HasSubstr("2147483647"));
  EXPECT_THAT(complaint("/model/vocab/a", "18446744073709551615"), HasSubstr("integer"));
  EXPECT_THAT(complaint("/model/vocab/a", "1.5"), HasSubstr("integer"));
  EXPECT_THAT(complaint("/model/vocab/a", R"("0")"), HasSubstr("integer"));
  EXPECT_THAT(complaint("/model/vocab/a", "1"), HasSubstr("two tokens"));
  EXPECT_THAT(complaint("/added_tokens/0/id", "1"), HasSubstr("two tokens"));
  EXPECT_THAT(complaint("/added_tokens/0/id", "99999999999"), HasSubstr("99999999999"));
  EXPECT_THAT(complaint("/added_tokens/0/content", R"("ab")"), HasSubstr("the vocabulary 2"));
  EXPECT_THAT(complaint("/post_processor/single/0/SpecialToken/id", json(std::string("<s>\0\n", 5))),
              HasSubstr("no '<s>\\x00\\x0a'"));
  EXPECT_THAT(complaint("/post_processor/special_tokens/<s>/ids/0", "10"), HasSubstr("10"));
  EXPECT_THAT(complaint("/post_processor/special_tokens/<s>/ids/0", "3"), HasSubstr("id 3"));
}

TEST(BadTokenizerJson, MergesThatNameUnknownTokensAreRefused) {
  EXPECT_THAT(complaint("/model/merges/0", R"(["a", "x"])"), AllOf(HasSubstr("\"x\""), HasSubstr("[0]")));
  EXPECT_THAT(complaint("/model/merges/1", R"("b b")"), HasSubstr("\"bb\""));
  EXPECT_THAT(complaint("/model/merges/1", R"("ab")"), HasSubstr("one space"));
  EXPECT_THAT(complaint("/model/merges/1", R"("a b a")"), HasSubstr("one space"));
  EXPECT_THAT(complaint("/model/merges/1", R"(["a"])"), HasSubstr("pair"));
  EXPECT_THAT(complaint("/model/merges/1", "7"), HasSubstr("string"));
  EXPECT_THAT(complaint("/model/merges", "7"), HasSubstr("array"));
  EXPECT_THAT(complaint("/model/unk_token", R"("x")"), HasSubstr("unk_token"));
  EXPECT_THAT(complaint("/model/vocab", "[]"), HasSubstr("object"));
}

TEST(BadTokenizerJson, BadAddedTokensAreRefused) {
  EXPECT_THAT(complaint("/added_tokens/0/content", R"("")"), HasSubstr("no content"));
  EXPECT_THAT(complaint("/added_tokens/0/content", json(std::string(5000, 'x'))), HasSubstr("5000 bytes"));
  EXPECT_THAT(complaint("/added_tokens/0/special", "3"), HasSubstr("special"));
  EXPECT_THAT(complaint("/added_tokens/0/lstrip", "null"), HasSubstr("lstrip"));
  json twice = small_file()["added_tokens"];
  twice.push_back(twice[0]);
  EXPECT_NE(complaint("/added_tokens", twice), "");
  twice[0]["content"] = twice[1]["content"] = "ab";
  twice[0]["id"] = twice[1]["id"] = 2;
  EXPECT_THAT(complaint("/added_tokens", twice), HasSubstr("twice"));
}

TEST(BadTokenizerJson, BadTemplatesAreRefused) {
  EXPECT_THAT(complaint("/post_processor/single", "[]"), HasSubstr("0 times"));
  EXPECT_THAT(complaint("/post_processor/single/1/Sequence/id", R"("B")"), HasSubstr("\"B\""));
  EXPECT_THAT(complaint("/post_processor/single/0/SpecialToken/id", R"("<x>")"), HasSubstr("<x>"));
  EXPECT_THAT(complaint("/post_processor/single/0", R"({"Sequence": {"id": "A"}})"), HasSubstr("2 times"));
}

}  // namespace
}  // namespace shadowkv::testing
