#include "server/api_error.h"

#include <gtest/gtest.h>

#include <new>
#include <nlohmann/json.hpp>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

template <typename Error>
ApiError of(const Error& error) {
  return api_error_of(std::make_exception_ptr(error));
}

TEST(ApiErrors, EveryKindOfFailureHasItsStatus) {
  EXPECT_EQ(of(InvalidInput("x")).status, 400);
  EXPECT_EQ(of(OutOfMemory("x")).status, 400);
  EXPECT_EQ(of(Busy("x")).status, 429);
  EXPECT_EQ(of(Interrupted("x")).status, 503);
  EXPECT_EQ(of(std::bad_alloc()).status, 503);
  EXPECT_EQ(of(DeviceFailure("x")).status, 500);
  EXPECT_EQ(of(std::runtime_error("x")).status, 500);
  EXPECT_EQ(of(5).status, 500);
  EXPECT_EQ(of(ApiError(404, "t", "m", "p", "c")).code, "c");
}

TEST(ApiErrors, AreOneJsonObjectWhateverTheyHold) {
  const auto body = nlohmann::json::parse(to_json_text(bad_request("no \xff text\n", "n[0]")));
  EXPECT_EQ(body["error"]["message"], "no \xEF\xBF\xBD text\n");
  EXPECT_EQ(body["error"]["type"], "invalid_request_error");
  EXPECT_EQ(body["error"]["param"], "n[0]");
  EXPECT_TRUE(body["error"]["code"].is_null());
}

TEST(ApiErrors, WhatPassesSaysWhenToComeAgain) {
  const auto has_retry = [](int status) {
    const HttpHead head = head_of(ApiError(status, "t", "m"));
    return std::any_of(head.headers.begin(), head.headers.end(),
                       [](const HttpHeader& header) { return header.name == "Retry-After"; });
  };
  EXPECT_TRUE(has_retry(429));
  EXPECT_TRUE(has_retry(503));
  EXPECT_FALSE(has_retry(400));
}

}  // namespace
}  // namespace shadowkv
