#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <string>

#include "formats/refusal.h"
#include "formats/temporary_file.h"
#include "shadowkv/hub.h"

namespace shadowkv::testing {
namespace {

// The environment with these variables and no others that count; as it was when it leaves scope.
class Variables {
 public:
  explicit Variables(std::map<std::string, std::string> values) {
    for (const char* name :
         {"HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_ENDPOINT", "HF_TOKEN",
          "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
          "HF_HUB_ETAG_TIMEOUT", "HOME", "SHADOWKV_HUB_PART"}) {
      const char* old = std::getenv(name);
      if (old != nullptr) old_[name] = old;
      names_.emplace_back(name);
      unsetenv(name);
    }
    values.try_emplace("HOME", "/nowhere");
    for (const auto& [name, value] : values) setenv(name.c_str(), value.c_str(), 1);
  }
  Variables(const Variables&) = delete;
  Variables& operator=(const Variables&) = delete;
  ~Variables() {
    for (const std::string& name : names_) unsetenv(name.c_str());
    for (const auto& [name, value] : old_) setenv(name.c_str(), value.c_str(), 1);
  }

 private:
  std::vector<std::string> names_;
  std::map<std::string, std::string> old_;
};

HubOptions options_of(const std::map<std::string, std::string>& values) {
  const Variables variables(values);
  return hub_options_from_environment();
}

}  // namespace

TEST(HubSettings, TheCacheIsWhereHuggingfaceHubHasIt) {
  EXPECT_EQ(options_of({}).cache, "/nowhere/.cache/huggingface/hub");
  EXPECT_EQ(options_of({{"XDG_CACHE_HOME", "/x"}}).cache, "/x/huggingface/hub");
  EXPECT_EQ(options_of({{"XDG_CACHE_HOME", "/x"}, {"HF_HOME", "~/h"}}).cache, "/nowhere/h/hub");
  EXPECT_EQ(options_of({{"HF_HOME", "/h"}, {"HUGGINGFACE_HUB_CACHE", "/old"}}).cache, "/old");
  EXPECT_EQ(options_of({{"HUGGINGFACE_HUB_CACHE", "/old"}, {"HF_HUB_CACHE", "/c"}}).cache, "/c");
}

TEST(HubSettings, TheTokenComesFromTheEnvironmentBeforeTheFile) {
  const TemporaryFolder home;
  home.write("token", " hf_file \n");
  home.write("other", "hf_other");
  const std::string folder = home.path().string();
  EXPECT_EQ(options_of({}).token, "");
  EXPECT_EQ(options_of({{"HF_HOME", folder}}).token, "hf_file");
  EXPECT_EQ(options_of({{"HF_HOME", folder}, {"HF_TOKEN_PATH", folder + "/other"}}).token, "hf_other");
  EXPECT_EQ(options_of({{"HF_HOME", folder}, {"HF_TOKEN", "hf_set"}}).token, "hf_set");
  EXPECT_NE(refusal_of([] { (void)options_of({{"HF_TOKEN", "a\r\nb: c"}}); }), "");
}

TEST(HubSettings, OthersAreReadAndChecked) {
  EXPECT_EQ(options_of({{"HF_ENDPOINT", "http://mirror:1/"}}).endpoint, "http://mirror:1");
  EXPECT_TRUE(options_of({{"HF_HUB_OFFLINE", "yes"}}).offline);
  EXPECT_FALSE(options_of({{"HF_HUB_OFFLINE", "0"}}).offline);
  EXPECT_EQ(options_of({{"HF_HUB_ETAG_TIMEOUT", "2.5"}}).answer_timeout_s, 2.5);
  EXPECT_EQ(options_of({{"SHADOWKV_HUB_PART", "1M"}}).part_bytes, 1 << 20);
  EXPECT_NE(refusal_of([] { (void)options_of({{"HF_ENDPOINT", "mirror"}}); }), "");
  EXPECT_NE(refusal_of([] { (void)options_of({{"SHADOWKV_HUB_PART", "many"}}); }), "");
}

}  // namespace shadowkv::testing
