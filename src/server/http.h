// What the transport hands on and takes back; http_server.h moves it over sockets.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv {

struct HttpHeader {
  std::string name;
  std::string value;
};

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // of the target, without what follows a '?'
  std::string body;
  std::vector<HttpHeader> headers;

  // Value of the first header of that name, whatever its case; empty where there is none.
  [[nodiscard]] std::string_view header(std::string_view name) const;
};

struct HttpHead {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<HttpHeader> headers = {};
};

// An answer as it comes. Used by one thread at a time; destroyed early where its client has gone.
class HttpReply {
 public:
  struct Part {
    std::string text;    // empty: nothing yet
    bool ended = false;  // nothing follows
  };

  virtual ~HttpReply() = default;
  // What has come since the last call.
  virtual Part next() noexcept = 0;
  // Status and headers; asked for once, when there is something to send.
  [[nodiscard]] virtual HttpHead head() const = 0;
  // Whether parts are sent as they come, as server-sent events; else all of them together. Asked until the
  // head is sent.
  [[nodiscard]] virtual bool streams() const = 0;
};

// An answer that is there at once.
class WholeReply final : public HttpReply {
 public:
  WholeReply(HttpHead head, std::string body) : head_(std::move(head)), body_(std::move(body)) {}
  Part next() noexcept override { return {.text = std::move(body_), .ended = true}; }
  [[nodiscard]] HttpHead head() const override { return head_; }
  [[nodiscard]] bool streams() const override { return false; }

 private:
  HttpHead head_;
  std::string body_;
};

// Says that a reply has news; from any thread, at any time, also when the reply is gone.
using HttpWake = std::function<void()>;

// Answers a request; called on one of several threads, and does not throw. Null ends the connection.
using HttpHandler = std::function<std::unique_ptr<HttpReply>(const HttpRequest& request, HttpWake wake)>;
// Answers what is no request.
using HttpRefusal = std::function<std::unique_ptr<HttpReply>(int status, std::string_view message)>;

}  // namespace shadowkv
