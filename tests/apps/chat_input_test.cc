#include "chat_input.h"

#include <gtest/gtest.h>

#include <vector>

namespace shadowkv::apps {
namespace {

// The messages that lines become; what is left open at the end is finished.
std::vector<std::string> messages_of(const std::vector<std::string>& lines) {
  MessageLines reader;
  std::vector<std::string> found;
  for (const std::string& line : lines) {
    if (const auto message = reader.add(line)) found.push_back(*message);
  }
  if (const auto message = reader.finish()) found.push_back(*message);
  return found;
}

using Lines = std::vector<std::string>;

TEST(MessageLines, ALineIsAMessage) {
  EXPECT_EQ(messages_of({"a", "", " b "}), (Lines{"a", "", " b "}));
}

TEST(MessageLines, ABackslashAtTheEndTakesTheNextLineAlong) {
  EXPECT_EQ(messages_of({"a\\", "b\\", "c", "d"}), (Lines{"a\nb\nc", "d"}));
  EXPECT_EQ(messages_of({"a\\", "\"\"\"b"}), (Lines{"a\n\"\"\"b"})) << "quotes begin messages alone";
  EXPECT_EQ(messages_of({"a\\"}), Lines{"a"}) << "the input ends";
}

TEST(MessageLines, QuotesTakeEverythingAsItIs) {
  EXPECT_EQ(messages_of({"\"\"\"", "a\\", "", "/b", "\"\"\"", "c"}), (Lines{"a\\\n\n/b", "c"}));
  EXPECT_EQ(messages_of({"\"\"\"a", " b\"\"\"  ", "c"}), (Lines{"a\n b", "c"}));
  EXPECT_EQ(messages_of({"\"\"\"a\"\"\""}), Lines{"a"});
  EXPECT_EQ(messages_of({"\"\"\"a", "b"}), Lines{"a\nb"}) << "the input ends";
}

TEST(MessageLines, WhatIsOpenAndQuotedIsKnown) {
  MessageLines lines;
  EXPECT_FALSE(lines.is_open());
  (void)lines.add("\"\"\"/a");
  EXPECT_TRUE(lines.is_open());
  EXPECT_EQ(lines.add("\"\"\""), "/a");
  EXPECT_TRUE(lines.was_quoted());
  EXPECT_FALSE(lines.is_open());
  EXPECT_EQ(lines.add("/a"), "/a");
  EXPECT_FALSE(lines.was_quoted());
  (void)lines.add("a\\");
  lines.clear();
  EXPECT_FALSE(lines.is_open());
  EXPECT_EQ(lines.add("b"), "b");
}

TEST(ChatCommand, BeginsWithOneSlash) {
  const auto command = command_of("/save  a file ");
  ASSERT_TRUE(command);
  EXPECT_EQ(command->name, "save");
  EXPECT_EQ(command->argument, "a file");
  EXPECT_EQ(command_of("/help")->name, "help");
  EXPECT_EQ(command_of("/help")->argument, "");
  EXPECT_EQ(command_of("/system a\nb")->argument, "a\nb");
  for (const char* text : {"help", " /help", "//help", ""}) EXPECT_FALSE(command_of(text)) << text;
  EXPECT_EQ(message_of("//etc/hosts"), "/etc/hosts");
  EXPECT_EQ(message_of("a//b"), "a//b");
}

}  // namespace
}  // namespace shadowkv::apps
