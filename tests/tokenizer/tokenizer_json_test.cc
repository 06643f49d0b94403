#include <gmock/gmock.h>

#include <set>
#include <thread>

#include "formats/refusal.h"
#include "formats/temporary_file.h"
#include "tokenizer/golden.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

class TokenizerJson : public ::testing::TestWithParam<const char*> {
 protected:
  std::string name_ = GetParam();
  std::shared_ptr<const Tokenizer> tokenizer_ = Tokenizer::from_json_file(golden_path(name_ + ".json"));
};

TEST_P(TokenizerJson, GivesTheIdsOfTheReference) {
  expect_golden_ids(*tokenizer_, name_);
}

TEST_P(TokenizerJson, GivesTheTextsOfTheReferenceAtOnceAndAsAStream) {
  expect_golden_texts(tokenizer_, name_);
}

TEST_P(TokenizerJson, EveryTokenIsFoundByItsBytes) {
  std::set<std::string> seen;
  for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
    if (!tokenizer_->has_token(id)) continue;
    const std::string bytes(tokenizer_->bytes_of(id));
    if (seen.insert(bytes).second && !tokenizer_->is_special(id)) {
      EXPECT_EQ(tokenizer_->bytes_of(tokenizer_->id_of(bytes)), bytes) << id;
    }
  }
  const int32_t bos = name_.starts_with("pieces") ? 1 : 0;
  EXPECT_EQ(tokenizer_->id_of("<s>"), bos);
  EXPECT_TRUE(tokenizer_->is_special(bos));
  EXPECT_EQ(tokenizer_->id_of("there is no such token"), -1);
}

INSTANTIATE_TEST_SUITE_P(Trained, TokenizerJson,
                         ::testing::Values("gpt2", "gpt2_prefix_space", "llama3", "qwen2", "smollm2",
                                           "default", "removed", "behaviors", "added", "unknown_bytes",
                                           "pieces", "pieces_first", "metaspace", "metaspace_never"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Tokenizer, TextWithoutNormalizationComesBackWhole) {
  for (const char* name : {"gpt2", "smollm2", "llama3"}) {
    const auto tokenizer = Tokenizer::open(golden_path(std::string(name) + ".json"));
    for (const nlohmann::json& line : read_lines(std::string(name) + ".encode.jsonl")) {
      const auto text = line[0].get<std::string>();
      const auto ids = tokenizer->encode(text, {.parse_special = true, .add_special = false});
      EXPECT_EQ(tokenizer->decode(ids, false), text) << name;
    }
  }
}

TEST(Tokenizer, CharactersWithoutPieceComeBackByTheirBytes) {
  for (const char* name : {"pieces", "pieces_first"}) {
    const auto tokenizer = Tokenizer::open(golden_path(std::string(name) + ".json"));
    const bool strips = std::string_view(name) == "pieces";
    for (const nlohmann::json& line : read_lines(std::string(name) + ".encode.jsonl")) {
      const auto text = line[0].get<std::string>();
      if (text.find("\u2581") != std::string::npos) continue;  // stands for a space
      const auto ids = tokenizer->encode(text, {.parse_special = false, .add_special = false});
      const bool prefixed = !strips && !text.empty() && !text.starts_with(' ');
      EXPECT_EQ(tokenizer->decode(ids, false), (prefixed ? " " : "") + text) << name;
    }
  }
}

TEST(StreamingDetokenizer, ARunOfByteTokensWaitsForItsEnd) {
  const auto tokenizer = Tokenizer::open(golden_path("pieces.json"));
  const auto byte = [](int value) { return 3 + value; };
  const int32_t of = tokenizer->id_of(" of");
  ASSERT_GE(of, 0);
  StreamingDetokenizer stream(tokenizer, true);
  EXPECT_EQ(stream.add(of), "of") << "the space before a text is taken away";
  EXPECT_EQ(stream.add(of), " of");
  for (const int value : {0xF0, 0x9F, 0x98, 0x80}) EXPECT_EQ(stream.add(byte(value)), "");
  EXPECT_EQ(stream.add(of), "\U0001F600 of");
  for (const int value : {0xC3, 0xA9, 0xC3}) EXPECT_EQ(stream.add(byte(value)), "");
  EXPECT_EQ(stream.add(1), "") << "a special token that is left out ends no run";
  EXPECT_EQ(stream.finish(), "\uFFFD\uFFFD\uFFFD") << "one byte too many spoils the run";
  EXPECT_EQ(stream.add(of), "of") << "another text begins";
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsOffset) {
  const auto tokenizer = Tokenizer::open(golden_path("gpt2.json"));
  for (const std::string_view bad :
       {"abcd\xFFxyz", "abcd\xC0\x80", "abcd\xE2\x82", "abcd\xED\xA0\x80", "abcd\x80"}) {
    EXPECT_THAT(refusal_of([&] { (void)tokenizer->encode(bad); }), HasSubstr("offset 4"));
  }
}

TEST(Tokenizer, AnIdWithoutTokenDecodesToNothingAndANegativeOneIsRefused) {
  const auto tokenizer = Tokenizer::open(golden_path("gpt2.json"));
  const auto size = static_cast<int32_t>(tokenizer->vocab_size());
  const int32_t a = tokenizer->id_of("a");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{a, size, a, INT32_MAX}, false), "aa");
  EXPECT_THAT(refusal_of([&] { (void)tokenizer->decode(std::vector<int32_t>{-1}, false); }), HasSubstr("-1"));
  EXPECT_THAT(refusal_of([&] { (void)tokenizer->bytes_of(size); }), HasSubstr(std::to_string(size)));
  StreamingDetokenizer stream(tokenizer, false);
  EXPECT_EQ(stream.add(size), "");
  EXPECT_THAT(refusal_of([&] { (void)stream.add(-7); }), HasSubstr("-7"));
}

TEST(Tokenizer, ThreadsShareOneTokenizer) {
  const auto tokenizer = Tokenizer::open(golden_path("llama3.json"));
  const auto lines = read_lines("llama3.encode.jsonl");
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  threads.reserve(wrong.size());
  for (int& count : wrong) {
    threads.emplace_back([&tokenizer, &lines, &count] {
      for (const auto& line : lines) {
        count += tokenizer->encode(line[0].get<std::string>()) != line[1].get<std::vector<int32_t>>();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

TEST(Tokenizer, AMegabyteWithoutBreakIsEncodedInTimeOfNLogN) {
  for (const char* name : {"qwen2", "pieces"}) {
    const auto tokenizer = Tokenizer::open(golden_path(std::string(name) + ".json"));
    for (const std::string& unit :
         std::vector<std::string>{"a", " ", "\n", "ab", "\u0300\u0323", "\u0f73", "1", "<s"}) {
      std::string text;
      while (text.size() < 1'000'000) text += unit;
      const auto ids = tokenizer->encode(text, {.parse_special = true, .add_special = false});
      EXPECT_FALSE(ids.empty());
      if (unit.size() == 1) {
        EXPECT_EQ(tokenizer->decode(ids, false), text) << name;
      }
    }
  }
}

TEST(Tokenizer, OpenFindsTheTokenizerOfAFolder) {
  const TemporaryFolder folder;
  EXPECT_THAT(refusal_of([&] { (void)Tokenizer::open(folder.path()); }), HasSubstr("no tokenizer.json"));
  std::filesystem::copy_file(golden_path("gpt2.json"), folder.path() / "tokenizer.json");
  EXPECT_EQ(Tokenizer::open(folder.path())->vocab_size(),
            Tokenizer::open(golden_path("gpt2.json"))->vocab_size());
  EXPECT_THAT(refusal_of([&] { (void)Tokenizer::open(folder.path() / "absent"); }),
              HasSubstr("no tokenizer at"));
}

}  // namespace
}  // namespace shadowkv::testing
