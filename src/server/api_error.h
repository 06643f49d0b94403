// What went wrong, as OpenAI's clients know it: the one place that maps exceptions to HTTP.
#pragma once

#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/http.h"

namespace shadowkv {

struct ApiError : std::exception {
  int status = 500;
  std::string type = "server_error";
  std::string message;
  std::string param = {};  // name of the field at fault; empty: none
  std::string code = {};
  std::vector<HttpHeader> headers = {};

  ApiError(int http_status, std::string kind, std::string text, std::string field = {},
           std::string name = {});
  [[nodiscard]] const char* what() const noexcept override { return message.c_str(); }
};

// A request that cannot be done as it stands: 400.
[[nodiscard]] ApiError bad_request(std::string message, std::string param = {}, std::string code = {});
[[nodiscard]] ApiError unavailable(std::string message);  // 503

// Any exception of this program.
[[nodiscard]] ApiError api_error_of(const std::exception_ptr& error);

// {"error": {message, type, param, code}}
[[nodiscard]] std::string to_json_text(const ApiError& error);
[[nodiscard]] HttpHead head_of(const ApiError& error);
[[nodiscard]] std::unique_ptr<HttpReply> reply_of(const ApiError& error);
// Of a status alone, for what is no request.
[[nodiscard]] std::unique_ptr<HttpReply> refuse_http(int status, std::string_view message);

}  // namespace shadowkv
