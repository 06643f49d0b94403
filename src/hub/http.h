// One HTTP request and its redirects. Retries are retry.h's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "shadowkv/error.h"

namespace shadowkv {

// What another try may not meet again: a cut, a stall, a server that is busy.
class TransientFailure : public Error {
 public:
  explicit TransientFailure(const std::string& message, double wait_s = 0)
      : Error(message), wait_s_(wait_s) {}
  // Seconds that the server asks to wait.
  [[nodiscard]] double wait_s() const { return wait_s_; }

 private:
  double wait_s_;
};

struct HubRequest {
  std::string url;
  bool head = false;
  std::string token;   // sent to the origin of `url` alone, never along a redirect that leaves it
  int64_t begin = -1;  // bytes [begin, end) are asked for; all where begin is below 0
  int64_t end = -1;
  double connect_timeout_s = 10;
  double stall_timeout_s = 10;  // each such span of time must bring 1 KiB a second
};

struct HubResponse {
  long status = 0;
  std::string url;                             // that answered, after redirects
  std::map<std::string, std::string> headers;  // names in lower case; of the last answer but for x-... ones
  [[nodiscard]] std::string header(const std::string& name) const;  // empty where there is none
  [[nodiscard]] int64_t content_length() const;                     // below 0 where there is none
};

// Receives the body of an answer whose headers are complete; may throw.
using BodySink = std::function<void(const HubResponse&, std::span<const std::byte>)>;

// "https://host:port" of a URL, as it is written.
[[nodiscard]] std::string_view origin_of(std::string_view url);

// A connection, kept from one request to the next. Used by one thread.
class HubClient {
 public:
  // `check` is called at least once a second while a request runs; what it throws ends the request.
  explicit HubClient(std::function<void()> check);
  ~HubClient();
  HubClient(const HubClient&) = delete;
  HubClient& operator=(const HubClient&) = delete;

  // The last answer, whatever its status; bodies go to `sink`, those of redirects nowhere. A HEAD request
  // follows redirects only within its origin. Throws TransientFailure for what the network did, DeviceFailure
  // for what it will do again (a certificate, a loop of redirects), and what `sink` throws.
  HubResponse perform(const HubRequest& request, const BodySink& sink);

 private:
  struct Exchange;
  HubResponse exchange(const HubRequest& request, const BodySink& sink, std::string& redirect);
  void set_options(const HubRequest& request, Exchange& exchange);

  std::function<void()> check_;
  void* handle_;  // CURL*
};

}  // namespace shadowkv
