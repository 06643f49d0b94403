#include "hub/http.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <exception>
#include <utility>

#include "formats/quote.h"
#include "hub/curl_library.h"

namespace shadowkv {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMostRedirects = 10;
constexpr std::size_t kMostHeaderBytes = 256 << 10;  // of one answer
constexpr double kLeastBytesPerSecond = 1024;

std::string trimmed_lower(std::string_view text, bool lower) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  std::string out(text);
  if (lower) {
    std::transform(out.begin(), out.end(), out.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  }
  return out;
}

bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// Failures that the same request meets again, however often it is made.
bool is_lasting(CURLcode code) {
  constexpr std::array kLasting = {
      CURLE_UNSUPPORTED_PROTOCOL, CURLE_URL_MALFORMAT,       CURLE_PEER_FAILED_VERIFICATION,
      CURLE_SSL_CACERT_BADFILE,   CURLE_SSL_ENGINE_NOTFOUND, CURLE_OUT_OF_MEMORY,
      CURLE_NOT_BUILT_IN,         CURLE_SSL_CERTPROBLEM,     CURLE_COULDNT_RESOLVE_PROXY};
  return std::find(kLasting.begin(), kLasting.end(), code) != kLasting.end();
}

}  // namespace

std::string HubResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

int64_t HubResponse::content_length() const {
  const std::string text = header("content-length");
  int64_t value = -1;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && rest == end ? value : -1;
}

std::string_view origin_of(std::string_view url) {
  const std::size_t scheme = url.find("://");
  if (scheme == url.npos) return {};
  return url.substr(0, url.find_first_of("/?#\\", scheme + 3));
}

// What libcurl's callbacks see of a request. Exceptions must not pass through its frames: they are kept.
struct HubClient::Exchange {
  const std::function<void()>& check;
  const BodySink& sink;
  HubResponse response;
  curl_slist* header_list = nullptr;
  std::exception_ptr failure;
  std::size_t header_bytes = 0;
  double stall_timeout_s;
  Clock::time_point window_start = Clock::now();
  curl_off_t window_bytes = 0;
  bool stalled = false;

  Exchange(const std::function<void()>& checks, const BodySink& body, double stall_s)
      : check(checks), sink(body), stall_timeout_s(stall_s) {}
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  ~Exchange() { curl_library().slist_free_all(header_list); }

  void send_header(const std::string& line) {
    curl_slist* longer = curl_library().slist_append(header_list, line.c_str());
    if (longer == nullptr) throw std::bad_alloc();
    header_list = longer;
  }

  template <typename Action>
  bool guarded(Action&& action) noexcept {
    try {
      action();
      return true;
    } catch (...) {
      failure = std::current_exception();
      return false;
    }
  }

  void take_header(std::string_view line) {
    header_bytes += line.size();
    if (header_bytes > kMostHeaderBytes) throw DeviceFailure("a server sends headers without end");
    if (line.starts_with("HTTP/")) {  // one answer follows another: 100 Continue, a proxy's own
      response.headers.clear();
      const std::size_t blank = line.find(' ');
      response.status = 0;
      if (blank != line.npos)
        std::from_chars(line.data() + blank + 1, line.data() + line.size(), response.status);
      return;
    }
    const std::size_t colon = line.find(':');
    if (colon == line.npos) return;
    response.headers[trimmed_lower(line.substr(0, colon), true)] =
        trimmed_lower(line.substr(colon + 1), false);
  }

  // Whether the window that ends now brought too little.
  bool is_stalled(curl_off_t bytes) {
    const auto now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - window_start).count();
    if (seconds < stall_timeout_s) return false;
    const auto brought = static_cast<double>(bytes - window_bytes);
    window_start = now;
    window_bytes = bytes;
    return brought < kLeastBytesPerSecond * stall_timeout_s;
  }

  static std::size_t on_header(const char* data, std::size_t size, std::size_t count, void* self) {
    auto& exchange = *static_cast<Exchange*>(self);
    const bool taken = exchange.guarded([&] { exchange.take_header({data, size * count}); });
    return taken ? size * count : 0;
  }

  static std::size_t on_body(const char* data, std::size_t size, std::size_t count, void* self) {
    auto& exchange = *static_cast<Exchange*>(self);
    const bool taken = exchange.guarded([&] {
      if (is_redirect(exchange.response.status)) return;
      exchange.sink(exchange.response, std::as_bytes(std::span(data, size * count)));
    });
    return taken ? size * count : CURL_WRITEFUNC_ERROR;
  }

  static int on_progress(void* self, curl_off_t, curl_off_t received, curl_off_t, curl_off_t) {
    auto& exchange = *static_cast<Exchange*>(self);
    if (!exchange.guarded([&] { exchange.check(); })) return 1;
    exchange.stalled = exchange.is_stalled(received);
    return exchange.stalled ? 1 : 0;
  }
};

HubClient::HubClient(std::function<void()> check)
    : check_(std::move(check)), handle_(curl_library().easy_init()) {
  if (handle_ == nullptr) throw DeviceFailure("this machine's libcurl cannot start");
}

HubClient::~HubClient() {
  curl_library().easy_cleanup(handle_);
}

void HubClient::set_options(const HubRequest& request, Exchange& exchange) {
  const auto set = [this](CURLoption option, auto value) {
    curl_library().easy_setopt(handle_, option, value);
  };
  curl_library().easy_reset(handle_);  // its connections stay
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_NOBODY, request.head ? 1L : 0L);
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(request.connect_timeout_s * 1000));
  set(CURLOPT_BUFFERSIZE, 256L << 10);
  set(CURLOPT_USERAGENT, "shadowkv/" SHADOWKV_VERSION);
  set(CURLOPT_HEADERFUNCTION, &Exchange::on_header);
  set(CURLOPT_HEADERDATA, &exchange);
  set(CURLOPT_WRITEFUNCTION, &Exchange::on_body);
  set(CURLOPT_WRITEDATA, &exchange);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &Exchange::on_progress);
  set(CURLOPT_XFERINFODATA, &exchange);
  if (request.begin >= 0) set(CURLOPT_RANGE, fmt::format("{}-{}", request.begin, request.end - 1).c_str());
  if (!request.token.empty()) exchange.send_header("Authorization: Bearer " + request.token);
  set(CURLOPT_HTTPHEADER, exchange.header_list);
}

HubResponse HubClient::exchange(const HubRequest& request, const BodySink& sink, std::string& redirect) {
  Exchange exchange(check_, sink, request.stall_timeout_s);
  std::array<char, CURL_ERROR_SIZE> said{};
  set_options(request, exchange);
  curl_library().easy_setopt(handle_, CURLOPT_ERRORBUFFER, said.data());
  const CURLcode code = curl_library().easy_perform(handle_);
  curl_library().easy_setopt(handle_, CURLOPT_ERRORBUFFER, nullptr);
  if (exchange.failure) std::rethrow_exception(exchange.failure);
  const std::string host(origin_of(request.url));
  if (exchange.stalled) {
    throw TransientFailure(
        fmt::format("{} sent nearly nothing for {:g} s", printable(host), request.stall_timeout_s));
  }
  if (code != CURLE_OK) {
    const char* reason = said[0] != '\0' ? said.data() : curl_library().easy_strerror(code);
    const std::string message = fmt::format("{}: {}", printable(host), printable(reason, 200));
    if (is_lasting(code)) throw DeviceFailure(message);
    throw TransientFailure(message);
  }
  char* next = nullptr;
  curl_library().easy_getinfo(handle_, CURLINFO_REDIRECT_URL, &next);
  if (is_redirect(exchange.response.status) && next != nullptr) redirect = next;
  exchange.response.url = request.url;
  return std::move(exchange.response);
}

HubResponse HubClient::perform(const HubRequest& request, const BodySink& sink) {
  HubRequest current = request;
  for (int hop = 0; hop <= kMostRedirects; ++hop) {
    std::string next;
    HubResponse response = exchange(current, sink, next);
    const bool leaves = origin_of(next) != origin_of(request.url);
    if (next.empty() || (request.head && leaves)) return response;
    const bool secure = current.url.starts_with("https://");
    if (!next.starts_with("https://") && (secure || !next.starts_with("http://"))) {
      throw DeviceFailure(fmt::format("{} leads to {}, which is not as safe; check HF_ENDPOINT",
                                      printable(origin_of(current.url)), printable(next)));
    }
    if (leaves)
      current.token.clear();  // for good: what a stranger redirects back to us was asked by the stranger
    current.url = std::move(next);
  }
  throw DeviceFailure(fmt::format("{} redirects more than {} times; try again later",
                                  printable(request.url, 200), kMostRedirects));
}

}  // namespace shadowkv
