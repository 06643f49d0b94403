#include "server/api_error.h"

#include <fmt/format.h>

#include <new>
#include <nlohmann/json.hpp>
#include <utility>

#include "shadowkv/error.h"

namespace shadowkv {
namespace {

constexpr const char* kInvalid = "invalid_request_error";
constexpr const char* kRetryAfterSeconds = "5";

nlohmann::json text_or_null(const std::string& text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

std::string_view type_of(int status) {
  if (status == 401) return "authentication_error";
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : kInvalid;
}

}  // namespace

ApiError::ApiError(int http_status, std::string kind, std::string text, std::string field, std::string name)
    : status(http_status),
      type(std::move(kind)),
      message(std::move(text)),
      param(std::move(field)),
      code(std::move(name)) {}

ApiError bad_request(std::string message, std::string param, std::string code) {
  return {400, kInvalid, std::move(message), std::move(param), std::move(code)};
}

ApiError unavailable(std::string message) {
  return {503, "server_error", std::move(message)};
}

ApiError api_error_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const ApiError& known) {
    return known;
  } catch (const InvalidInput& wrong) {
    return bad_request(wrong.what());
  } catch (const OutOfMemory& large) {
    return bad_request(large.what(), {}, "context_length_exceeded");
  } catch (const Busy& busy) {
    return {429, "rate_limit_error", busy.what()};
  } catch (const Interrupted& ended) {
    return unavailable(ended.what());
  } catch (const std::bad_alloc&) {
    return unavailable("the machine's memory ran out; try again later");
  } catch (const std::exception& other) {
    return {500, "server_error", other.what()};
  } catch (...) {
    return {500, "server_error", "an unknown error"};
  }
}

// Bytes of a request that are no UTF-8 may stand in a message.
std::string to_json_text(const ApiError& error) {
  const nlohmann::json body = {{"error",
                                {{"message", error.message},
                                 {"type", error.type},
                                 {"param", text_or_null(error.param)},
                                 {"code", text_or_null(error.code)}}}};
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

HttpHead head_of(const ApiError& error) {
  HttpHead head{.status = error.status, .headers = error.headers};
  if (error.status == 429 || error.status == 503) head.headers.push_back({"Retry-After", kRetryAfterSeconds});
  if (error.status == 401) head.headers.push_back({"WWW-Authenticate", "Bearer"});
  return head;
}

std::unique_ptr<HttpReply> reply_of(const ApiError& error) {
  return std::make_unique<WholeReply>(head_of(error), to_json_text(error));
}

std::unique_ptr<HttpReply> refuse_http(int status, std::string_view message) {
  std::string text(message);
  if (status == 413) text = "the request's body is too large";
  if (status == 431) text = "the request's headers are too large";
  return reply_of({status, std::string(type_of(status)), text});
}

}  // namespace shadowkv
