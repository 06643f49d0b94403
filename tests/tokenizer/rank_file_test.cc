#include <gmock/gmock.h>

#include <fstream>
#include <sstream>

#include "formats/refusal.h"
#include "formats/temporary_file.h"
#include "tokenizer/golden.h"

namespace shadowkv::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string small_ranks() {
  std::ostringstream out;
  out << std::ifstream(golden_path("small.tiktoken")).rdbuf();
  return out.str();
}

json added(const std::string& content) {
  return {{"content", content}, {"lstrip", false},      {"rstrip", false},
          {"special", true},    {"single_word", false}, {"normalized", false}};
}

// The special tokens of the goldens, of which each comes after the last rank.
json golden_config(int first) {
  json list;
  int id = first;
  for (const char* content : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    list[std::to_string(id++)] = added(content);
  }
  return {{"added_tokens_decoder", list}, {"tokenizer_class", "any"}};
}

class RankFile : public ::testing::Test {
 protected:
  [[nodiscard]] std::shared_ptr<const Tokenizer> load(std::string_view name, std::string_view ranks) const {
    folder_.write(name, ranks);
    return Tokenizer::open(folder_.path());
  }
  [[nodiscard]] std::string complaint(std::string_view ranks) const {
    return refusal_of([&] { (void)load("qwen.tiktoken", ranks); });
  }
  [[nodiscard]] std::string config_complaint(const json& config) const {
    folder_.write("tokenizer_config.json", config.dump());
    return complaint(small_ranks());
  }

  TemporaryFolder folder_;
  int count_ = static_cast<int>(std::ranges::count(small_ranks(), '\n'));
};

TEST_F(RankFile, QwensHasItsSpecialTokensByItself) {
  const auto tokenizer = load("qwen.tiktoken", small_ranks());
  expect_golden_ids(*tokenizer, "ranks_qwen");
  expect_golden_texts(tokenizer, "ranks_qwen");
  EXPECT_EQ(tokenizer->id_of("<|extra_204|>"), tokenizer->vocab_size() - 1);
}

TEST_F(RankFile, OtherSpecialTokensComeFromTheConfiguration) {
  folder_.write("tokenizer_config.json", golden_config(count_).dump());
  const auto model = load("tokenizer.model", small_ranks());
  expect_golden_ids(*model, "ranks_cl100k");
  EXPECT_EQ(model->vocab_size(), count_ + 3);
  const auto o200k = load("o200k_base.tiktoken", small_ranks());
  expect_golden_ids(*o200k, "ranks_o200k");
  const auto cl100k = Tokenizer::open(folder_.write("cl100k_base.tiktoken", small_ranks()));
  expect_golden_ids(*cl100k, "ranks_cl100k");
}

TEST_F(RankFile, AnOpeningGoesBeforeEachTextUnlessTheConfigurationForbidsIt) {
  json config = golden_config(count_);
  json& list = config["added_tokens_decoder"];
  list[std::to_string(count_ + 9)] = added("[gMASK]");
  list[std::to_string(count_ + 5)] = added("<sop>");
  folder_.write("tokenizer_config.json", config.dump());
  const std::vector<int32_t> opening = {count_ + 9, count_ + 5};
  EXPECT_EQ(load("tokenizer.model", small_ranks())->encode(""), opening);
  config["add_bos_token"] = false;
  folder_.write("tokenizer_config.json", config.dump());
  EXPECT_TRUE(load("tokenizer.model", small_ranks())->encode("").empty());
  config.erase("add_bos_token");
  list[std::to_string(count_ + 5)] = added("<|begin_of_text|>");
  folder_.write("tokenizer_config.json", config.dump());
  EXPECT_EQ(load("tokenizer.model", small_ranks())->encode(""), std::vector<int32_t>{count_ + 5});
}

TEST_F(RankFile, IsFoundWhereThereIsNoTokenizerJson) {
  EXPECT_EQ(Tokenizer::find_file(folder_.path()), std::nullopt);
  folder_.write("tokenizer.model", "\x0A\x0E\x0A\x05<unk>\x15");
  EXPECT_EQ(Tokenizer::find_file(folder_.path()), std::nullopt) << "SentencePiece's";
  EXPECT_THAT(refusal_of([&] { (void)Tokenizer::open(folder_.path() / "tokenizer.model"); }),
              HasSubstr("SentencePiece"));
  folder_.write("tokenizer.model", small_ranks());
  EXPECT_EQ(Tokenizer::find_file(folder_.path()), folder_.path() / "tokenizer.model");
  folder_.write("qwen.tiktoken", small_ranks());
  EXPECT_EQ(Tokenizer::find_file(folder_.path()), folder_.path() / "qwen.tiktoken");
  folder_.write("other.tiktoken", small_ranks());
  EXPECT_THAT(refusal_of([&] { (void)Tokenizer::find_file(folder_.path()); }), HasSubstr("2 *.tiktoken"));
  EXPECT_THAT(refusal_of([&] { (void)Tokenizer::open(folder_.path() / "other.tiktoken"); }),
              AllOf(HasSubstr("\"other.tiktoken\""), HasSubstr("qwen.tiktoken")));
  std::filesystem::copy_file(golden_path("gpt2.json"), folder_.path() / "tokenizer.json");
  EXPECT_EQ(Tokenizer::find_file(folder_.path()), folder_.path() / "tokenizer.json");
}

TEST_F(RankFile, BadLinesAreRefusedWithTheirNumber) {
  const std::string ranks = small_ranks();
  for (const char* line : {"YWI", "YWI= x", "YW_= 900", "YWI=900", "YWI= 900 ", "YWI=  900", "= 900",
                           "==== 900", " 900", "YWI= 99999999999999999999", "Y=I= 900"}) {
    EXPECT_THAT(complaint(ranks + line + "\n"), HasSubstr("line " + std::to_string(count_ + 1))) << line;
  }
  EXPECT_THAT(complaint(ranks + "YWJjZGVmZ2g= -1\n"), HasSubstr("-1"));
  EXPECT_THAT(complaint(ranks + "YWJjZGVmZ2g= 99999999\n"), HasSubstr("99999999"));
  EXPECT_THAT(complaint(ranks + "YWJjZGVmZ2g= 0\n"), HasSubstr("two tokens have the id 0"));
  EXPECT_THAT(complaint(ranks + "YQ== 900\n"), AllOf(HasSubstr("\"a\""), HasSubstr("900")));
  EXPECT_EQ(complaint(ranks + "\n\r\nYWJjZGVmZ2g= 900\r\n"), "") << "empty lines and carriage returns";
  EXPECT_THAT(complaint(""), HasSubstr("base64"));
  EXPECT_THAT(complaint("YQ== 0\n"), HasSubstr("<0x00>"));
}

TEST_F(RankFile, ABadConfigurationIsRefused) {
  const auto with = [&](const std::string& key, const json& token) {
    return json{{"added_tokens_decoder", {{key, token}}}};
  };
  EXPECT_THAT(config_complaint(json{{"added_tokens_decoder", 3}}), HasSubstr("added_tokens_decoder"));
  EXPECT_THAT(config_complaint(with("x", added("<a>"))), HasSubstr("\"x\""));
  EXPECT_THAT(config_complaint(with("99999999999999999999", added("<a>"))),
              HasSubstr("99999999999999999999"));
  EXPECT_THAT(config_complaint(with("-1", added("<a>"))), HasSubstr("-1"));
  EXPECT_THAT(config_complaint(with("0", added("<a>"))), HasSubstr("two tokens have the id 0"));
  EXPECT_THAT(config_complaint(with("900", added("a"))), HasSubstr("the vocabulary"));
  EXPECT_THAT(config_complaint(with("900", added(""))), HasSubstr("no content"));
  EXPECT_THAT(config_complaint(with("900", json{{"content", "<a>"}})), HasSubstr("'special'"));
  EXPECT_THAT(config_complaint(with("900", json("<a>"))), HasSubstr("\"900\""));
  EXPECT_THAT(config_complaint(json{{"add_bos_token", 1}}), HasSubstr("add_bos_token"));
}

}  // namespace
}  // namespace shadowkv::testing
