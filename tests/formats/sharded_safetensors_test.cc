#include "formats/sharded_safetensors.h"

#include <gmock/gmock.h>

#include "formats/refusal.h"
#include "formats/safetensors_writer.h"
#include "formats/temporary_file.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;

class ShardedSafetensorsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SafetensorsWriter first, second;
    folder_.write("a.safetensors", first.floats("x", {2}, {1, 2}).floats("y", {1}, {3}).bytes());
    folder_.write("b.safetensors", second.floats("z", {3}, {4, 5, 6}).bytes());
  }
  void index(std::string_view weight_map) {
    folder_.write("model.safetensors.index.json",
                  fmt::format(R"({{"metadata": {{"total_size": 24}}, "weight_map": {}}})", weight_map));
  }
  std::string refusal() {
    return refusal_of([&] { (void)ShardedSafetensors(folder_.path()); });
  }

  TemporaryFolder folder_;
};

TEST_F(ShardedSafetensorsTest, EveryTensorComesFromItsShard) {
  index(R"({"z": "b.safetensors", "x": "a.safetensors", "y": "a.safetensors"})");
  folder_.write("consolidated.safetensors", "left alone");
  const ShardedSafetensors model(folder_.path());
  EXPECT_EQ(model.files().size(), 2u);
  const SafetensorsTensor* z = model.find_tensor("z");
  ASSERT_NE(z, nullptr);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(z->data.data()), z->data.size()),
            bytes_of<float>({4, 5, 6}));
  ASSERT_NE(model.find_tensor("y"), nullptr);
  EXPECT_EQ(model.find_tensor("y")->shape, std::vector<int64_t>{1});
  EXPECT_EQ(model.find_tensor("w"), nullptr);
}

TEST_F(ShardedSafetensorsTest, SeveralFilesNeedAnIndex) {
  EXPECT_THAT(refusal(), HasSubstr("holds 2 .safetensors files and no model.safetensors.index.json"));
  std::filesystem::remove(folder_.path() / "b.safetensors");
  EXPECT_EQ(refusal(), "");
  std::filesystem::remove(folder_.path() / "a.safetensors");
  EXPECT_THAT(refusal(), HasSubstr("holds no .safetensors file"));
}

TEST_F(ShardedSafetensorsTest, AnIndexThatIsNotTrueIsRefused) {
  index(R"({"x": "a.safetensors", "y": "a.safetensors"})");
  EXPECT_EQ(refusal(), "");  // what lies in a file that it does not name does not matter
  index(R"({"x": "a.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("holds tensor \"y\", which"));
  index(R"({"x": "a.safetensors", "y": "b.safetensors", "z": "b.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("places in another file"));
  index(R"({"x": "a.safetensors", "y": "a.safetensors", "w": "a.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("places tensor \"w\" in \"a.safetensors\", which has no such tensor"));
  index(R"({"x": "c.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("c.safetensors"));
}

TEST_F(ShardedSafetensorsTest, AnIndexNamesFilesBesideItAlone) {
  for (const char* shard :
       {R"("../a.safetensors")", R"("/tmp/a.safetensors")", R"("..\\a.safetensors")", "7", R"("a.bin")",
        R"("a.safetensors\u0000.safetensors")", R"("a\f.safetensors")", R"("a\u007f.safetensors")"}) {
    index(fmt::format(R"({{"x": {}}})", shard));
    EXPECT_THAT(refusal(), HasSubstr("expected the name of a .safetensors file beside it")) << shard;
  }
  index(fmt::format(R"({{"x": "{}.safetensors"}})", std::string(300, 'a')));
  EXPECT_THAT(refusal(), HasSubstr("expected the name of a .safetensors file beside it"));
  for (const char* weight_map : {"{}", "[]", "null", R"("a.safetensors")"}) {
    index(weight_map);
    EXPECT_THAT(refusal(), HasSubstr("has no \"weight_map\"")) << weight_map;
  }
  folder_.write("model.safetensors.index.json", "[]");
  EXPECT_THAT(refusal(), HasSubstr("has no \"weight_map\""));
  folder_.write("model.safetensors.index.json",
                R"({"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}})");
  EXPECT_NE(refusal(), "");
}

}  // namespace
}  // namespace shadowkv::testing
