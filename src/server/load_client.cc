#include "server/load_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "base/check.h"

namespace shadowkv {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr auto kToken = asio::experimental::as_tuple(asio::use_awaitable);
constexpr auto kLook = std::chrono::milliseconds(50);
constexpr double kIdleSeconds = 5;
constexpr std::size_t kPartBytes = 16 << 10;
constexpr std::size_t kMostErrorBytes = 300;
constexpr const char* kNothing =
    "an answer of no event: a stream of OpenAI's completions was asked for, and it ended without "
    "\"choices\"; "
    "look whether another server listens there";

// The events of a stream, one line of data after the other.
class EventLines {
 public:
  template <typename Use>
  void add(std::string_view bytes, const Use& use) {
    held_ += bytes;
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = held_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      std::string_view line = std::string_view(held_).substr(begin, end - begin);
      if (line.ends_with('\r')) line.remove_suffix(1);
      constexpr std::string_view kData = "data: ";
      if (line.starts_with(kData)) use(line.substr(kData.size()));
    }
    held_.erase(0, begin);
  }

 private:
  std::string held_;
};

bool has_choice(const Json& event) {
  const auto choices = event.find("choices");
  return choices != event.end() && choices->is_array() && !choices->empty();
}

bool has_text(const Json& event) {
  if (!has_choice(event)) return false;
  const Json& choice = event["choices"][0];
  if (!choice.value("text", "").empty()) return true;
  const Json delta = choice.value("delta", Json::object());
  return delta.contains("tool_calls") || (delta.contains("content") && delta["content"].is_string() &&
                                          !delta["content"].get_ref<const std::string&>().empty());
}

class Load {
 public:
  Load(const LoadTarget& target, const std::vector<LoadRequest>& requests, const std::function<void()>& check)
      : target_(target), requests_(requests), check_(check), answers_(requests.size()) {
    tcp::resolver resolver(io_);
    error_code error;
    endpoints_ = resolver.resolve(target.host, target.port, error);
    require(!error, "there is no host \"{}\" at port {} ({})", target.host, target.port, error.message());
  }

  std::vector<LoadAnswer> run(int64_t most) {
    asio::co_spawn(io_, look(), rethrow);
    open_ = std::min<int64_t>(most, std::ssize(requests_));
    const int64_t clients = open_;
    for (int64_t i = 0; i < clients; ++i) asio::co_spawn(io_, work(), rethrow);
    io_.run();
    return std::move(answers_);
  }

 private:
  static void rethrow(const std::exception_ptr& error) {
    if (error) std::rethrow_exception(error);
  }
  [[nodiscard]] double now_s() const { return std::chrono::duration<double>(Clock::now() - begun_).count(); }

  awaitable<void> look() {
    asio::steady_timer timer(io_);
    while (open_ > 0) {
      check_();
      timer.expires_after(kLook);
      co_await timer.async_wait(kToken);
    }
  }

  // One connection, over which one request goes after the other.
  awaitable<void> work() {
    std::optional<beast::tcp_stream> stream;
    asio::steady_timer timer(io_);
    double ended_s = 0;
    while (next_ < requests_.size()) {
      const std::size_t i = next_++;
      timer.expires_at(begun_ + std::chrono::duration_cast<Clock::duration>(
                                    std::chrono::duration<double>(requests_[i].at_s)));
      co_await timer.async_wait(kToken);
      LoadAnswer& answer = answers_[i];
      if (now_s() > ended_s + kIdleSeconds) stream.reset();  // its server may close it any moment
      answer.begun_s = now_s();
      answer.error = co_await ask(stream, requests_[i].body, answer);
      answer.ended_s = ended_s = now_s();
      if (!answer.error.empty()) stream.reset();
    }
    --open_;
  }

  // What went wrong; empty: nothing.
  awaitable<std::string> ask(std::optional<beast::tcp_stream>& stream, const std::string& body,
                             LoadAnswer& answer) {
    const auto limit = std::chrono::milliseconds(target_.timeout_ms);
    if (!stream) {
      stream.emplace(io_);
      stream->expires_after(limit);
      const auto [error, endpoint] = co_await stream->async_connect(endpoints_, kToken);
      if (error) co_return "no connection: " + error.message();
      stream->socket().set_option(tcp::no_delay(true));
    }
    http::request<http::string_body> request(http::verb::post, target_.path, 11);
    request.set(http::field::host, target_.host);
    request.set(http::field::content_type, "application/json");
    if (!target_.key.empty()) request.set(http::field::authorization, "Bearer " + target_.key);
    request.body() = body;
    request.prepare_payload();
    stream->expires_after(limit);
    const auto [error, bytes] = co_await http::async_write(*stream, request, kToken);
    if (error) co_return "not sent: " + error.message();
    co_return co_await hear(*stream, answer);
  }

  awaitable<std::string> hear(beast::tcp_stream& stream, LoadAnswer& answer) {
    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    const auto [failed, head_bytes] = co_await http::async_read_header(stream, buffer, parser, kToken);
    if (failed) co_return "no answer: " + failed.message();
    std::string part(kPartBytes, '\0'), refusal, failure;
    EventLines lines;
    while (!parser.is_done()) {
      parser.get().body().data = part.data();
      parser.get().body().size = part.size();
      stream.expires_after(std::chrono::milliseconds(target_.timeout_ms));
      const auto [error, bytes] = co_await http::async_read_some(stream, buffer, parser, kToken);
      if (error && error != http::error::need_buffer) co_return "cut: " + error.message();
      const std::string_view text(part.data(), part.size() - parser.get().body().size);
      if (parser.get().result_int() != 200) {
        refusal += text;
      } else {
        lines.add(text, [&](std::string_view event) { take(event, answer, failure); });
      }
    }
    if (parser.get().result_int() != 200)
      co_return fmt::format("{}: {}", parser.get().result_int(), refusal.substr(0, kMostErrorBytes));
    if (answer.pieces_s.empty()) answer.pieces_s = std::move(answer.silent_s);
    if (failure.empty() && answer.pieces_s.empty()) co_return kNothing;
    co_return failure;
  }

  void take(std::string_view event, LoadAnswer& answer, std::string& failure) const {
    const Json json = Json::parse(event, nullptr, false);
    if (!json.is_object()) return;  // the end's mark
    try {
      if (json.contains("error")) failure = json["error"].dump().substr(0, kMostErrorBytes);
      if (has_choice(json)) (has_text(json) ? answer.pieces_s : answer.silent_s).push_back(now_s());
      const auto usage = json.find("usage");
      if (usage == json.end() || !usage->is_object()) return;
      answer.prompt_tokens = usage->value("prompt_tokens", int64_t{0});
      answer.new_tokens = usage->value("completion_tokens", int64_t{0});
    } catch (const Json::exception&) {
      failure = "an event is not of OpenAI's form";
    }
  }

  const LoadTarget& target_;
  const std::vector<LoadRequest>& requests_;
  const std::function<void()>& check_;
  std::vector<LoadAnswer> answers_;
  asio::io_context io_{1};
  tcp::resolver::results_type endpoints_;
  Clock::time_point begun_ = Clock::now();
  std::size_t next_ = 0;
  int64_t open_ = 0;
};

}  // namespace

std::vector<LoadAnswer> run_load(const LoadTarget& target, const std::vector<LoadRequest>& requests,
                                 int64_t most, const std::function<void()>& check) {
  return Load(target, requests, check).run(most);
}

}  // namespace shadowkv
