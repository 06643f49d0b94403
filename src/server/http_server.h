// HTTP/1.1 over TCP: one thread for all sockets, some more for handlers. What a client may take of time,
// bytes and connections is bounded; a slow one holds up nobody.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "server/http.h"

namespace shadowkv {

struct HttpServerOptions {
  std::string host = "127.0.0.1";              // address to listen at
  int port = 8000;                             // 0: any that is free
  int64_t max_connections = 2048;              // at a time; more wait until one closes
  int64_t max_body_bytes = int64_t{64} << 20;  // of a request
  int64_t max_header_bytes = 64 << 10;         // likewise
  int64_t request_timeout_ms = 60'000;         // for a request to come, once its connection is free
  int64_t write_timeout_ms = 60'000;           // for a client to take what is sent
  int64_t comment_every_ms = 15'000;           // a comment in a stream that has nothing to say
  int handler_threads = 2;                     // that parse and tokenize
};

class HttpServer {
 public:
  // Listens and serves from now on. Throws InvalidInput for a host that is no address and for options out of
  // range, DeviceFailure where the port cannot be had.
  HttpServer(const HttpServerOptions& options, HttpHandler handler, HttpRefusal refusal);
  ~HttpServer();  // cuts what is open
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  [[nodiscard]] int port() const;             // that it listens at
  [[nodiscard]] int64_t connections() const;  // that are open
  // Requests that are being answered.
  [[nodiscard]] int64_t answering() const;

 private:
  class Listener;
  std::unique_ptr<Listener> listener_;
};

}  // namespace shadowkv
