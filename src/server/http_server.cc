#include "server/http_server.h"

#include <fmt/format.h>

#include <atomic>
#include <boost/asio.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <thread>

#include "base/check.h"

namespace shadowkv {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;

constexpr auto kToken = asio::experimental::as_tuple(asio::use_awaitable);
constexpr auto kRetryAccept = milliseconds(100);  // where the system has no socket to spare
constexpr auto kLinger = milliseconds(1000);      // for a refused client to read why

HttpServerOptions checked(const HttpServerOptions& options) {
  require(options.port >= 0 && options.port <= 65535, "port = {} is out of range; it must be from 0 to 65535",
          options.port);
  require(options.max_connections >= 1, "max-connections = {} is out of range; it must be at least 1",
          options.max_connections);
  require(options.handler_threads >= 1, "handler_threads = {} is out of range; it must be at least 1",
          options.handler_threads);
  return options;
}

tcp::endpoint endpoint_of(const HttpServerOptions& options) {
  error_code error;
  const auto address =
      asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, error);
  require(!error, "host \"{}\" is no address; give one such as 127.0.0.1, 0.0.0.0 or ::1", options.host);
  return {address, static_cast<uint16_t>(options.port)};
}

HttpRequest request_of(http::request<http::string_body>&& message) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string target(message.target());
  request.path = target.substr(0, target.find('?'));
  for (const auto& field : message) {
    request.headers.push_back({std::string(field.name_string()), std::string(field.value())});
  }
  request.body = std::move(message.body());
  return request;
}

template <typename Body>
void set_head(http::response<Body>& response, const HttpHead& head, bool keeps) {
  response.result(static_cast<unsigned>(head.status));
  response.set(http::field::content_type, head.content_type);
  for (const HttpHeader& header : head.headers) response.set(header.name, header.value);
  response.keep_alive(keeps);
}

// What went wrong with a request as a status; 0 where there is nobody to be told.
int status_of(const error_code& error) {
  if (error == http::error::end_of_stream || error == beast::error::timeout) return 0;
  if (error == http::error::body_limit) return 413;
  if (error == http::error::header_limit) return 431;
  if (error.category() == http::make_error_code(http::error::bad_method).category()) return 400;
  return 0;
}

}  // namespace

// Everything but the handler runs on the one thread of `io`.
class HttpServer::Listener {
 public:
  Listener(const HttpServerOptions& options, HttpHandler handler, HttpRefusal refusal);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  [[nodiscard]] int port() const { return port_; }
  [[nodiscard]] int64_t connections() const { return connections_; }
  [[nodiscard]] int64_t answering() const { return answering_; }

 private:
  class Connection;
  friend class Connection;

  void listen();
  awaitable<void> accept();
  void closed();

  HttpServerOptions options_;
  HttpHandler handler_;
  HttpRefusal refusal_;
  asio::io_context io_{1};
  asio::thread_pool workers_;
  tcp::acceptor acceptor_{io_};
  asio::steady_timer room_{io_};  // cancelled when a connection closes
  int port_ = 0;
  std::atomic<int64_t> connections_{0};
  std::atomic<int64_t> answering_{0};
  std::thread thread_;
};

class HttpServer::Listener::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Listener& listener, tcp::socket socket)
      : listener_(listener), stream_(std::move(socket)), news_(listener.io_) {
    ++listener_.connections_;
  }
  ~Connection() { listener_.closed(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  awaitable<void> run();

 private:
  enum class Woken : uint8_t { by_news, by_time, by_end };

  awaitable<bool> read(http::request_parser<http::string_body>& parser);
  awaitable<void> refuse(int status, std::string_view message);
  awaitable<std::unique_ptr<HttpReply>> answer(HttpRequest request);
  awaitable<bool> send(HttpReply& reply, bool keeps);
  awaitable<bool> send_whole(const HttpReply& reply, std::string body, bool keeps);
  awaitable<bool> begin_stream(const HttpReply& reply, bool keeps);
  awaitable<bool> send_chunk(std::string_view text);
  awaitable<Woken> wait();
  awaitable<bool> has_closed();
  [[nodiscard]] HttpWake waker();
  void lasts(int64_t timeout_ms) { stream_.expires_after(milliseconds(timeout_ms)); }

  Listener& listener_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  asio::steady_timer news_;         // cancelled by news
  std::atomic<bool> woken_{false};  // since next() was last asked
  bool watches_ = true;             // for the client's end; not while more requests have come already
};

HttpServer::Listener::Listener(const HttpServerOptions& options, HttpHandler handler, HttpRefusal refusal)
    : options_(checked(options)),
      handler_(std::move(handler)),
      refusal_(std::move(refusal)),
      workers_(static_cast<std::size_t>(options.handler_threads)) {
  listen();
  asio::co_spawn(io_, accept(), asio::detached);
  thread_ = std::thread([this] { io_.run(); });
}

HttpServer::Listener::~Listener() {
  workers_.join();
  io_.stop();
  thread_.join();
}

void HttpServer::Listener::listen() {
  const tcp::endpoint endpoint = endpoint_of(options_);
  try {
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(tcp::acceptor::reuse_address(true));
    acceptor_.bind(endpoint);
    acceptor_.listen(tcp::acceptor::max_listen_connections);
    port_ = acceptor_.local_endpoint().port();
  } catch (const boost::system::system_error& error) {
    throw DeviceFailure(fmt::format("{}:{} cannot be listened at: {}; choose another --port", options_.host,
                                    options_.port, error.code().message()));
  }
}

void HttpServer::Listener::closed() {
  --connections_;
  room_.cancel();
}

awaitable<void> HttpServer::Listener::accept() {
  while (true) {
    while (connections_ >= options_.max_connections) {
      room_.expires_at(asio::steady_timer::time_point::max());
      co_await room_.async_wait(kToken);
    }
    auto [error, socket] = co_await acceptor_.async_accept(kToken);
    if (error) {
      room_.expires_after(kRetryAccept);
      co_await room_.async_wait(kToken);
      continue;
    }
    const auto connection = std::make_shared<Connection>(*this, std::move(socket));
    asio::co_spawn(io_, connection->run(), [connection](const std::exception_ptr&) {});
  }
}

// ---- one connection ---------------------------------------------------------------------------------------

HttpWake HttpServer::Listener::Connection::waker() {
  return [self = weak_from_this()] {
    const auto connection = self.lock();
    if (!connection || connection->woken_.exchange(true)) return;
    asio::post(connection->listener_.io_, [connection] { connection->news_.cancel(); });
  };
}

awaitable<void> HttpServer::Listener::Connection::run() {
  error_code ignored;
  stream_.socket().set_option(tcp::no_delay(true), ignored);
  bool keeps = true;
  while (keeps) {
    http::request_parser<http::string_body> parser;
    if (!co_await read(parser)) break;
    keeps = parser.get().keep_alive();
    const bool is_head = parser.get().method() == http::verb::head;
    HttpRequest request = request_of(parser.release());
    if (is_head) request.method = "GET";
    ++listener_.answering_;
    const auto reply = co_await answer(std::move(request));
    if (is_head) keeps = false;  // what it answers with has a body that is not sent
    const bool sent = reply && co_await send(*reply, keeps);
    --listener_.answering_;
    if (!sent) break;
  }
  stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
}

// The next request; false where there is none.
awaitable<bool> HttpServer::Listener::Connection::read(http::request_parser<http::string_body>& parser) {
  const HttpServerOptions& options = listener_.options_;
  parser.header_limit(static_cast<uint32_t>(options.max_header_bytes));
  parser.body_limit(static_cast<uint64_t>(options.max_body_bytes));
  lasts(options.request_timeout_ms);
  auto [error, header_bytes] = co_await http::async_read_header(stream_, buffer_, parser, kToken);
  if (!error && beast::iequals(parser.get()[http::field::expect], "100-continue")) {
    const http::response<http::empty_body> go_on(http::status::continue_, parser.get().version());
    co_await http::async_write(stream_, go_on, kToken);
  }
  if (!error) {
    auto [body_error, body_bytes] = co_await http::async_read(stream_, buffer_, parser, kToken);
    error = body_error;
  }
  if (!error) co_return true;
  if (const int status = status_of(error); status != 0) co_await refuse(status, error.message());
  co_return false;
}

// Then reads on for a moment: a client that still sends would lose the answer when the socket closes.
awaitable<void> HttpServer::Listener::Connection::refuse(int status, std::string_view message) {
  const auto reply = listener_.refusal_(status, message);
  co_await send(*reply, false);
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  stream_.expires_after(kLinger);
  std::array<char, 4096> rest{};
  while (true) {
    auto [error, bytes] = co_await stream_.async_read_some(asio::buffer(rest), kToken);
    if (error) co_return;
  }
}

awaitable<std::unique_ptr<HttpReply>> HttpServer::Listener::Connection::answer(HttpRequest request) {
  const auto work = [](const HttpHandler& handler, HttpRequest asked,
                       HttpWake wake) -> awaitable<std::unique_ptr<HttpReply>> {
    co_return handler(asked, std::move(wake));
  };
  co_return co_await asio::co_spawn(listener_.workers_.get_executor(),
                                    work(listener_.handler_, std::move(request), waker()),
                                    asio::use_awaitable);
}

// False where the connection is of no more use.
awaitable<bool> HttpServer::Listener::Connection::send(HttpReply& reply, bool keeps) {
  std::string whole;
  bool began = false;
  watches_ = true;
  while (true) {
    woken_ = false;
    HttpReply::Part part = reply.next();
    const bool streams = began || reply.streams();
    if (!streams) whole += part.text;
    if (!streams && part.ended) co_return co_await send_whole(reply, std::move(whole), keeps) && keeps;
    if (streams && !part.text.empty()) {
      if (!began && !co_await begin_stream(reply, keeps)) co_return false;
      began = true;
      if (!co_await send_chunk(part.text)) co_return false;
    }
    if (part.ended) break;
    if (!part.text.empty()) continue;
    const Woken woken = co_await wait();
    if (woken == Woken::by_end) co_return false;
    if (woken == Woken::by_time && streams) {
      if (!began && !co_await begin_stream(reply, keeps)) co_return false;
      began = true;
      if (!co_await send_chunk(": still at it\n\n")) co_return false;
    }
  }
  lasts(listener_.options_.write_timeout_ms);
  auto [error, bytes] = co_await asio::async_write(stream_, http::make_chunk_last(), kToken);
  co_return !error && keeps;
}

awaitable<bool> HttpServer::Listener::Connection::send_whole(const HttpReply& reply, std::string body,
                                                             bool keeps) {
  http::response<http::string_body> response;
  set_head(response, reply.head(), keeps);
  response.body() = std::move(body);
  response.prepare_payload();
  lasts(listener_.options_.write_timeout_ms);
  auto [error, bytes] = co_await http::async_write(stream_, response, kToken);
  co_return !error;
}

awaitable<bool> HttpServer::Listener::Connection::begin_stream(const HttpReply& reply, bool keeps) {
  http::response<http::empty_body> response;
  set_head(response, reply.head(), keeps);
  response.chunked(true);
  http::response_serializer<http::empty_body> serializer(response);
  lasts(listener_.options_.write_timeout_ms);
  auto [error, bytes] = co_await http::async_write_header(stream_, serializer, kToken);
  co_return !error;
}

awaitable<bool> HttpServer::Listener::Connection::send_chunk(std::string_view text) {
  lasts(listener_.options_.write_timeout_ms);
  const auto chunk = http::make_chunk(asio::const_buffer(text.data(), text.size()));
  auto [error, bytes] = co_await asio::async_write(stream_, chunk, kToken);
  co_return !error;
}

// Until there is news, or the client has gone, or it is time for a comment. Between the look at woken_ and
// the wait nothing else runs on this thread, so that no news is missed.
awaitable<HttpServer::Listener::Connection::Woken> HttpServer::Listener::Connection::wait() {
  using namespace asio::experimental::awaitable_operators;
  if (woken_) co_return Woken::by_news;
  stream_.expires_never();
  news_.expires_after(milliseconds(listener_.options_.comment_every_ms));
  error_code timer_error;
  if (watches_) {
    auto first = co_await (news_.async_wait(kToken) || has_closed());
    if (first.index() == 1) {
      if (std::get<1>(first)) co_return Woken::by_end;
      watches_ = false;
      co_return Woken::by_news;
    }
    timer_error = std::get<0>(std::get<0>(first));
  } else {
    auto [error] = co_await news_.async_wait(kToken);
    timer_error = error;
  }
  co_return timer_error ? Woken::by_news : Woken::by_time;
}

// Waits for whatever the client sends while it is answered: its end, or a next request, which is left there.
awaitable<bool> HttpServer::Listener::Connection::has_closed() {
  char byte = 0;
  auto [error, bytes] =
      co_await stream_.socket().async_receive(asio::buffer(&byte, 1), tcp::socket::message_peek, kToken);
  co_return error == asio::error::eof || error == asio::error::connection_reset || (!error && bytes == 0);
}

// -----------------------------------------------------------------------------------------------------------

HttpServer::HttpServer(const HttpServerOptions& options, HttpHandler handler, HttpRefusal refusal)
    : listener_(std::make_unique<Listener>(options, std::move(handler), std::move(refusal))) {}
HttpServer::~HttpServer() = default;

int HttpServer::port() const {
  return listener_->port();
}
int64_t HttpServer::connections() const {
  return listener_->connections();
}
int64_t HttpServer::answering() const {
  return listener_->answering();
}

}  // namespace shadowkv
