// Which prefixes are found and which go first: policy alone, over made-up sizes.
#include "engine/prefix_cache.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "engine/engines.h"

namespace shadowkv::testing {
namespace {

constexpr int64_t kPlenty = int64_t{1} << 40;
const Room kEverything{.device = kPlenty, .host = kPlenty};

std::vector<PrefixKey> keys(const std::vector<int32_t>& ids, const std::vector<int64_t>& cuts,
                            const PrefixOwner& owner = {.identity = "model", .salt = "salt"}) {
  return prefix_keys(owner, ids, cuts);
}

TEST(PrefixKeys, AreThoseOfAllTokensBefore) {
  const std::vector<int32_t> ids = random_ids(200);
  const auto all = keys(ids, {64, 128, 192});
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[1].tokens, 128);
  EXPECT_EQ(all[1].digest, keys({ids.begin(), ids.begin() + 128}, {128})[0].digest);
  for (const std::size_t changed : {0u, 63u, 127u}) {
    std::vector<int32_t> others = ids;
    ++others[changed];
    EXPECT_NE(keys(others, {64, 128})[1].digest, all[1].digest) << changed;
  }
  EXPECT_NE(all[0].digest, all[1].digest);
}

// Each of what decides what is held of a token makes another key, and no two texts run into one another.
TEST(PrefixKeys, TellOwnersApart) {
  const std::vector<int32_t> ids = random_ids(64);
  const std::vector<PrefixOwner> owners = {
      {.identity = "model", .salt = "salt"},   {.identity = "model", .salt = "other"},
      {.identity = "another", .salt = "salt"}, {.identity = "model", .rope_table = 1, .salt = "salt"},
      {.identity = "models", .salt = "alt"},   {.identity = "model", .salt = ""}};
  for (std::size_t i = 0; i < owners.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j)
      EXPECT_NE(keys(ids, {64}, owners[i])[0].digest, keys(ids, {64}, owners[j])[0].digest) << i << ' ' << j;
  }
}

// A byte a token on the device; what is written once more for each prefix is another ten.
class PrefixCaches : public ::testing::Test {
 protected:
  static Footprint bytes(int64_t tokens, int64_t shared) { return {.device = tokens - shared + 10}; }

  PrefixId add(PrefixCache& cache, uint32_t text, int64_t tokens, const PrefixPlace& parent = {}) {
    const std::vector<int32_t> ids = random_ids(tokens, text);
    return cache.add({.sequence = sequences_++,
                      .tokens = tokens,
                      .parent = parent,
                      .parts = {tokens},
                      .ids = std::make_shared<const std::vector<int32_t>>(ids)},
                     keys(ids, {tokens}));
  }
  static std::optional<PrefixPlace> find(const PrefixCache& cache, uint32_t text, int64_t tokens,
                                         int64_t most) {
    std::vector<int64_t> cuts;
    for (int64_t cut = 100; cut <= tokens; cut += 100) cuts.push_back(cut);
    return cache.find(keys(random_ids(tokens, text), cuts), most);
  }
  // Does all that is to be done; what went or moved, in order.
  static std::string make_room(PrefixCache& cache, const Footprint& set_aside, const Room& room) {
    std::string done;
    while (const auto action = cache.next(set_aside, room)) {
      const bool moves = action->kind == PrefixAction::Kind::to_host;
      done += fmt::format("{}{}{}", done.empty() ? "" : " ", action->id, moves ? "->host" : "");
      moves ? cache.set_tier(action->id, PrefixTier::host) : cache.remove(action->id);
    }
    return done;
  }

  PrefixCache cache_{kPlenty, bytes};
  SequenceId sequences_ = 0;
};

TEST_F(PrefixCaches, FindTheLongest) {
  EXPECT_FALSE(find(cache_, 1, 500, 500));
  const PrefixId first = add(cache_, 1, 100);
  const PrefixId second = add(cache_, 1, 300, {first, 100});
  EXPECT_EQ(find(cache_, 1, 500, 500)->id, second);
  EXPECT_EQ(find(cache_, 1, 500, 500)->tokens, 300);
  EXPECT_EQ(find(cache_, 1, 500, 299)->id, first) << "of so many at most";
  EXPECT_EQ(find(cache_, 1, 200, 200)->id, first);
  EXPECT_FALSE(find(cache_, 2, 500, 500));
  cache_.remove(second);
  EXPECT_EQ(find(cache_, 1, 500, 500)->id, first);
}

TEST_F(PrefixCaches, LeaveAKeyToWhoeverHadItFirst) {
  const PrefixId first = add(cache_, 1, 100), second = add(cache_, 1, 100);
  EXPECT_EQ(find(cache_, 1, 100, 100)->id, first);
  cache_.remove(second);
  EXPECT_EQ(find(cache_, 1, 100, 100)->id, first);
  cache_.remove(first);
  EXPECT_FALSE(find(cache_, 1, 100, 100));
}

TEST_F(PrefixCaches, LetTheLeastRecentlyUsedGoFirst) {
  for (uint32_t text = 1; text <= 3; ++text) add(cache_, text, 100);
  EXPECT_EQ(make_room(cache_, {}, kEverything), "");
  cache_.touch(0);
  EXPECT_EQ(make_room(cache_, {.device = 100}, {.device = 350, .host = 0}), "1") << "three of 110";
  EXPECT_EQ(make_room(cache_, {.device = 200}, {.device = 350, .host = 0}), "2");
  EXPECT_EQ(make_room(cache_, {.device = 350}, {.device = 350, .host = 0}), "0");
  EXPECT_EQ(make_room(cache_, {.device = 400}, {.device = 350, .host = 0}), "") << "nothing is left";
}

TEST_F(PrefixCaches, LetWhatOthersBeginWithGoAfterThem) {
  const PrefixId first = add(cache_, 1, 100);
  const PrefixId second = add(cache_, 1, 200, {first, 100});
  const PrefixId other = add(cache_, 2, 100);
  cache_.touch(second);
  EXPECT_EQ(cache_.path(second), (std::vector<PrefixId>{first, second}));
  EXPECT_EQ(make_room(cache_, {}, {.device = 0, .host = 0}), "2 1 0");
  EXPECT_FALSE(cache_.contains(other));
}

TEST_F(PrefixCaches, MoveDownWhileHostMemoryHasRoom) {
  const PrefixId first = add(cache_, 1, 100);
  add(cache_, 1, 200, {first, 100});
  add(cache_, 2, 100);
  EXPECT_EQ(make_room(cache_, {}, {.device = 220, .host = 120}), "1->host");
  EXPECT_EQ(make_room(cache_, {}, {.device = 110, .host = 220}), "0->host");
  EXPECT_EQ(make_room(cache_, {}, {.device = 0, .host = 220}), "1 2->host") << "the oldest makes room there";
}

TEST_F(PrefixCaches, CountWhatRequestsShareWithThem) {
  const PrefixId first = add(cache_, 1, 100);
  const PrefixId second = add(cache_, 1, 300, {first, 100});
  const PrefixId other = add(cache_, 2, 100);
  EXPECT_EQ(cache_.bytes().device, 110 + 210 + 110);
  const PrefixPlace place{second, 200};
  cache_.cover({&place, 1});
  EXPECT_EQ(cache_.bytes().device, 10 + 110 + 110);
  EXPECT_EQ(make_room(cache_, {}, {.device = 130, .host = 0}), std::to_string(other))
      << "nobody runs with it";
  cache_.cover({});
  EXPECT_EQ(cache_.bytes().device, 110 + 210);
}

TEST_F(PrefixCaches, KeepNoMoreThanTheyMay) {
  PrefixCache cache(250, bytes);
  for (uint32_t text = 1; text <= 3; ++text) add(cache, text, 100);
  EXPECT_EQ(make_room(cache, {}, kEverything), "0");
}

TEST_F(PrefixCaches, TakeNoMemoryWhereTheyAreInFilesAlone) {
  const PrefixId first = add(cache_, 1, 100), second = add(cache_, 1, 300, {first, 100});
  cache_.set_file(first, 1000);
  cache_.set_file(second, 2000);
  EXPECT_EQ(cache_.first_to_go(), second);
  cache_.set_tier(second, PrefixTier::disk);
  EXPECT_EQ(cache_.bytes().device, 110);
  EXPECT_EQ(cache_.in_memory(), 1);
  EXPECT_EQ(cache_.first_to_go(), first) << "what begins with it is in memory no more";
  EXPECT_EQ(find(cache_, 1, 500, 500)->id, second);
  EXPECT_EQ(cache_.file_bytes(), 3000);
  EXPECT_EQ(cache_.files(), 2);
  EXPECT_EQ(cache_.descendants(first), std::vector<PrefixId>{second});
}

TEST_F(PrefixCaches, AreSavedBehindWhatTheyBeginWith) {
  const PrefixId first = add(cache_, 1, 100), second = add(cache_, 1, 300, {first, 100});
  const PrefixId other = add(cache_, 2, 100);
  cache_.touch(second);
  EXPECT_EQ(cache_.first_to_save(), other);
  cache_.set_file(other, 1000);
  EXPECT_EQ(cache_.first_to_save(), first);
  cache_.set_file(first, 1000);
  EXPECT_EQ(cache_.first_to_save(), second);
  cache_.set_file(second, 1000);
  EXPECT_FALSE(cache_.first_to_save());
  cache_.set_file(first, 0);
  EXPECT_EQ(cache_.files(), 1) << "no file serves without those before it";
}

TEST_F(PrefixCaches, GiveUpOlderFilesForNewerOnes) {
  const PrefixId first = add(cache_, 1, 100), second = add(cache_, 1, 300, {first, 100});
  const PrefixId other = add(cache_, 2, 100), last = add(cache_, 3, 100);
  for (const PrefixId each : {first, second, other}) cache_.set_file(each, 1000);
  EXPECT_EQ(cache_.first_file_to_go(last), second) << "the first is what it begins with";
  cache_.touch(second);
  EXPECT_EQ(cache_.first_file_to_go(last), other) << "the only one that was used before it";
  cache_.touch(other);
  EXPECT_FALSE(cache_.first_file_to_go(last));
  EXPECT_EQ(cache_.first_file_to_go(std::nullopt), second);
}

TEST_F(PrefixCaches, LetWhatIsPinnedGoLast) {
  for (uint32_t text = 1; text <= 3; ++text) add(cache_, text, 100);
  cache_.pin(0, true);
  EXPECT_EQ(make_room(cache_, {}, {.device = 220, .host = 110}), "1->host");
  EXPECT_EQ(make_room(cache_, {}, {.device = 0, .host = 0}), "1 2 0");
}

TEST_F(PrefixCaches, SaveWhatIsToBeInAFileFirst) {
  const PrefixId other = add(cache_, 2, 100);
  const PrefixId first = add(cache_, 1, 100), second = add(cache_, 1, 300, {first, 100});
  EXPECT_EQ(cache_.first_to_save(), other);
  EXPECT_FALSE(cache_.wants_files());
  cache_.want_file(second);
  EXPECT_TRUE(cache_.wants_files());
  EXPECT_EQ(cache_.first_to_save(), first) << "which it begins with";
  for (const PrefixId each : {first, second, other}) cache_.set_file(each, 1000);
  EXPECT_FALSE(cache_.wants_files());
  EXPECT_EQ(cache_.first_file_to_go(std::nullopt), other);
  cache_.pin(other, true);
  EXPECT_FALSE(cache_.first_file_to_go(std::nullopt)) << "all of them stay";
}

TEST_F(PrefixCaches, BelongToTheirTenants) {
  const PrefixId first = add(cache_, 1, 100), second = add(cache_, 1, 300, {first, 100});
  cache_.touch(second);
  EXPECT_EQ(cache_.of_tenant({}), (std::vector<PrefixId>{second, first}));
  EXPECT_TRUE(cache_.of_tenant(salt_digest("another")).empty());
  EXPECT_NE(salt_digest(""), salt_digest("another"));
  EXPECT_EQ(cache_.memory_bytes(second), 210);
}

TEST_F(PrefixCaches, KnowWhenMemoryFills) {
  add(cache_, 1, 90);
  EXPECT_FALSE(cache_.is_filling({.device = 100}, {.device = 300, .host = 0}));
  EXPECT_TRUE(cache_.is_filling({.device = 101}, {.device = 300, .host = 0}));
  PrefixCache cache(199, bytes);
  add(cache, 1, 90);
  EXPECT_TRUE(cache.is_filling({}, kEverything));
}

}  // namespace
}  // namespace shadowkv::testing
