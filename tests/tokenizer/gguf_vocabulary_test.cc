#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "formats/gguf_writer.h"
#include "formats/refusal.h"
#include "formats/temporary_file.h"
#include "tokenizer/golden.h"

namespace shadowkv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Vocabulary {
  std::string model = "gpt2";
  std::string pre = "gpt-2";
  std::vector<std::string> tokens = {"<s>", "a", "b", "ab", "unused", "<tool>", "caf\u00c3\u00a9"};
  std::vector<int32_t> types = {3, 1, 1, 1, 5, 4, 1};
  std::vector<std::string> merges = {"a b"};
  std::optional<uint32_t> bos, eos;  // added to each text
  bool space_prefix = false;
  std::vector<float> scores = {};
};

std::string write(const Vocabulary& v) {
  GgufWriter file;
  file.text("tokenizer.ggml.model", v.model)
      .text("tokenizer.ggml.pre", v.pre)
      .strings("tokenizer.ggml.tokens", v.tokens);
  file.array("tokenizer.ggml.token_type", 5, v.types.size(), bytes_of(v.types))
      .strings("tokenizer.ggml.merges", v.merges);
  file.scalar<uint8_t>("tokenizer.ggml.add_bos_token", 7, v.bos.has_value());
  file.scalar<uint8_t>("tokenizer.ggml.add_eos_token", 7, v.eos.has_value());
  file.scalar<uint8_t>("tokenizer.ggml.add_space_prefix", 7, v.space_prefix);
  if (!v.scores.empty()) file.array("tokenizer.ggml.scores", 6, v.scores.size(), bytes_of(v.scores));
  if (v.bos) file.integer("tokenizer.ggml.bos_token_id", *v.bos);
  if (v.eos) file.integer("tokenizer.ggml.eos_token_id", *v.eos);
  return file.bytes();
}

std::shared_ptr<const Tokenizer> load(const Vocabulary& vocabulary) {
  const TemporaryFolder folder;
  return Tokenizer::open(folder.write("model.gguf", write(vocabulary)));
}

std::string complaint(const std::function<void(Vocabulary&)>& spoil) {
  Vocabulary vocabulary;
  spoil(vocabulary);
  return refusal_of([&] { (void)load(vocabulary); });
}

// The vocabulary of a tokenizer.json as a GGUF file has it.
Vocabulary from_json(const std::string& name, const std::string& pre) {
  const auto json = nlohmann::json::parse(std::ifstream(golden_path(name + ".json")));
  Vocabulary out;
  out.pre = pre;
  const auto& vocab = json["model"]["vocab"];
  out.tokens.assign(vocab.size(), "");
  out.types.assign(vocab.size(), 1);
  for (const auto& [text, id] : vocab.items()) out.tokens[id.get<size_t>()] = text;
  for (const auto& added : json["added_tokens"]) out.types[added["id"].get<size_t>()] = 3;
  out.merges.clear();
  for (const auto& merge : json["model"]["merges"]) {
    out.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  return out;
}

TEST(GgufVocabulary, AFamilyCutsTextAsItsTokenizerJsonDoes) {
  const std::vector<std::pair<const char*, const char*>> families = {
      {"gpt2", "gpt-2"}, {"qwen2", "qwen2"}, {"smollm2", "smollm"}, {"default", "default"}};
  for (const auto& [name, pre] : families) {
    const auto tokenizer = load(from_json(name, pre));
    expect_golden_ids(*tokenizer, name);
    expect_golden_texts(tokenizer, name);
  }
  Vocabulary llama = from_json("llama3", "llama-bpe");
  llama.bos = 0;
  llama.eos = 1;
  expect_golden_ids(*load(llama), "llama3");
}

// A vocabulary of pieces, as converted from a SentencePiece model: scores instead of merges.
Vocabulary scored_pieces() {
  Vocabulary out = from_json("pieces", "default");
  out.model = "llama";
  out.merges = {"of no use"};
  out.types[0] = 2;
  for (size_t id = 0; id < out.tokens.size(); ++id) {
    if (out.tokens[id].starts_with("<0x")) out.types[id] = 6;
    out.scores.push_back(-static_cast<float>(id));
  }
  out.bos = 1;
  out.space_prefix = true;
  return out;
}

TEST(GgufVocabulary, ScoresMergeAsTheTokenizerJsonOfTheSameModelDoes) {
  const auto tokenizer = load(scored_pieces());
  expect_golden_ids(*tokenizer, "pieces");
  expect_golden_texts(tokenizer, "pieces");
}

// By scores "ab" and "bc" come first, and of both the left one.
TEST(GgufVocabulary, OfEqualScoresTheLeftmostGoesFirst) {
  Vocabulary v{.model = "llama",
               .tokens = {"<unk>", "a", "b", "c", "ab", "bc", "aa", "aaa", "\u2581"},
               .types = {2, 1, 1, 1, 1, 1, 1, 1, 1},
               .bos = {},
               .eos = {},
               .scores = {0, -9, -9, -9, -1, -1, -2, -1, -9}};
  const auto tokenizer = load(v);
  EXPECT_EQ(tokenizer->encode("abc"), (std::vector<int32_t>{4, 3}));
  EXPECT_EQ(tokenizer->encode("aaaaa"), (std::vector<int32_t>{7, 6}));
  EXPECT_EQ(tokenizer->encode("axyb"), (std::vector<int32_t>{1, 0, 2})) << "unknown neighbours are one";
  EXPECT_EQ(tokenizer->encode("a b"), (std::vector<int32_t>{1, 8, 2}));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{8, 1, 8, 2}, false), " a b");
  v.space_prefix = true;
  EXPECT_EQ(load(v)->encode("a"), (std::vector<int32_t>{8, 1}));
  EXPECT_EQ(load(v)->decode(std::vector<int32_t>{8, 1, 8, 2}, false), "a b");
}

TEST(GgufVocabulary, BadPiecesAreRefused) {
  const auto complaint_of = [](const std::function<void(Vocabulary&)>& spoil) {
    Vocabulary v = scored_pieces();
    spoil(v);
    return refusal_of([&] { (void)load(v); });
  };
  EXPECT_THAT(complaint_of([](Vocabulary& v) { v.scores.clear(); }), HasSubstr("tokenizer.ggml.scores"));
  EXPECT_THAT(complaint_of([](Vocabulary& v) { v.scores.pop_back(); }), HasSubstr("scores 559"));
  EXPECT_THAT(complaint_of([](Vocabulary& v) { v.scores[300] = NAN; }), HasSubstr("token 300"));
  EXPECT_THAT(complaint_of([](Vocabulary& v) { v.types[300] = 7; }), HasSubstr("type 7"));
  EXPECT_THAT(complaint_of([](Vocabulary& v) { v.types[300] = 6; }), HasSubstr("type of a byte"));
  EXPECT_THAT(complaint_of([](Vocabulary& v) { v.tokens[4] = "<0xGG>"; }), HasSubstr("\"<0xGG>\""));
  EXPECT_THAT(complaint_of([](Vocabulary& v) { v.tokens[4] = "<0x0a>"; }), HasSubstr("same byte"));
  EXPECT_THAT(complaint_of([](Vocabulary& v) { v.tokens[300].assign(1, '\xFF'); }), HasSubstr("UTF-8"));
  EXPECT_THAT(complaint_of([](Vocabulary& v) { v.bos = 560; }), HasSubstr("bos_token_id is 560"));
  EXPECT_THAT(complaint_of([](Vocabulary& v) {
                for (size_t n = 1; n < 5000; ++n) {  // each can be cut anywhere
                  v.tokens.emplace_back(n, '\1');
                  v.types.push_back(1);
                  v.scores.push_back(0);
                }
              }),
              HasSubstr("8388608 ways"));
}

TEST(GgufVocabulary, TokenTypesDecideWhatIsSpecial) {
  const auto tokenizer = load({});
  EXPECT_TRUE(tokenizer->is_special(0));
  EXPECT_FALSE(tokenizer->is_special(5));
  EXPECT_FALSE(tokenizer->has_token(4)) << "unused";
  EXPECT_EQ(tokenizer->encode("ab<s><tool>ba"), (std::vector<int32_t>{3, 0, 5, 2, 1}));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0, 5, 6, 4}, true), "<tool>caf\u00e9");
}

TEST(GgufVocabulary, WhatIsUnknownIsNamed) {
  EXPECT_THAT(complaint([](Vocabulary& v) { v.model = "t5"; }), HasSubstr("\"t5\""));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.pre = "mystery"; }),
              AllOf(HasSubstr("\"mystery\""), HasSubstr("qwen2")));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.types[1] = 6; }), HasSubstr("type 6"));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.space_prefix = true; }), HasSubstr("add_space_prefix"));
}

TEST(GgufVocabulary, ContradictionsAreRefused) {
  EXPECT_THAT(complaint([](Vocabulary& v) { v.types.pop_back(); }), HasSubstr("token_type 6"));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.tokens[2] = v.tokens[1]; }), HasSubstr("two ids, 1 and 2"));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.tokens[0] = ""; }), HasSubstr("no content"));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.tokens[0].assign(1, '\xFF'); }), HasSubstr("UTF-8"));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.merges[0] = "a x"; }), HasSubstr("\"x\""));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.merges[0] = "b a"; }), HasSubstr("\"ba\""));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.merges[0] = "unused a"; }), HasSubstr("merge 0"));
  for (const char* merge : {"ab", "", " ", "a b a"}) {
    EXPECT_THAT(complaint([&](Vocabulary& v) { v.merges[0] = merge; }), HasSubstr("one space")) << merge;
  }
  EXPECT_THAT(complaint([](Vocabulary& v) { v.bos = 7; }), HasSubstr("bos_token_id is 7"));
  EXPECT_THAT(complaint([](Vocabulary& v) { v.eos = 4; }), HasSubstr("id 4"));
  EXPECT_THAT(complaint([](Vocabulary& v) {
                v.tokens.clear();
                v.types.clear();
                v.merges.clear();
              }),
              HasSubstr("empty"));
}

TEST(GgufVocabulary, AFileWithoutVocabularyIsRefused) {
  const TemporaryFolder folder;
  folder.write("model.gguf", GgufWriter().text("general.name", "x").bytes());
  EXPECT_THAT(refusal_of([&] { (void)Tokenizer::open(folder.path()); }), HasSubstr("tokenizer.ggml.model"));
}

}  // namespace
}  // namespace shadowkv::testing
