#include "table.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace shadowkv::apps {
namespace {

TEST(Table, ColumnsLineUpTheFirstToTheLeft) {
  Table table({"name", "n"});
  table.add({"a", "10"});
  table.add({"\xC3\xA9t\xC3\xA9", "5"});  // three characters
  EXPECT_EQ(table.text(), "name   n\n--------\na     10\n\xC3\xA9t\xC3\xA9    5\n");
}

TEST(Table, ARowOfAnotherLengthIsRefused) {
  Table table({"name", "n"});
  EXPECT_THROW(table.add({"a"}), std::logic_error);
}

}  // namespace
}  // namespace shadowkv::apps
