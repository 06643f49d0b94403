#include "chat_branches.h"

#include <gtest/gtest.h>

#include "conversation.h"

namespace shadowkv::apps {
namespace {

TEST(ChatBranches, ABranchBeginsAsTheOtherStandsAndGoesOnByItself) {
  ChatBranches branches;
  branches.current().messages.push_back(message("user", "a"));
  EXPECT_TRUE(branches.go_to("b"));
  EXPECT_EQ(branches.current().name, "b");
  branches.current().messages.push_back(message("assistant", "x"));
  EXPECT_FALSE(branches.go_to("main"));
  EXPECT_EQ(branches.current().messages.size(), 1u);
  EXPECT_FALSE(branches.go_to("b"));
  EXPECT_EQ(branches.current().messages.size(), 2u);
  EXPECT_EQ(branches.all().size(), 2u);
  EXPECT_TRUE(branches.is_current(branches.all()[1]));
}

TEST(ChatMessages, TheSystemMessageIsReplacedAndOutlastsTheRest) {
  Json messages = Json::array({message("user", "a"), message("assistant", "b")});
  set_system(messages, "S");
  set_system(messages, "T");
  EXPECT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0], message("system", "T"));
  EXPECT_EQ(count_said(messages), 2);
  clear_messages(messages);
  EXPECT_EQ(messages, Json::array({message("system", "T")}));
  EXPECT_EQ(count_said(messages), 0);
  messages = Json::array({message("user", "a")});
  clear_messages(messages);
  EXPECT_TRUE(messages.is_array() && messages.empty());
}

}  // namespace
}  // namespace shadowkv::apps
