// A client that puts a server under load: streamed requests over HTTP/1.1, as many at a time as are due, all
// of them on the caller's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace shadowkv {

struct LoadTarget {
  std::string host = "127.0.0.1";
  std::string port = "8000";
  std::string path = "/v1/completions";
  std::string key = {};          // a bearer's; empty: none
  int64_t timeout_ms = 600'000;  // without a byte
};

struct LoadRequest {
  double at_s = 0;   // when it is due, from the beginning
  std::string body;  // JSON with "stream" and "stream_options": {"include_usage": true}
};

// Seconds are those from the beginning. A request that failed has an error, and what came until then.
struct LoadAnswer {
  double begun_s = 0;
  double ended_s = 0;
  // When each piece of text came; of an answer without text, as of a server without a tokenizer, each event.
  std::vector<double> pieces_s = {};
  std::vector<double> silent_s = {};  // when each event without text came, of an answer that has texts
  int64_t prompt_tokens = 0;          // as the server counts
  int64_t new_tokens = 0;             // likewise
  std::string error = {};
};

// Sends requests in their order, each when it is due and when fewer than `most` are in flight. check is
// called several times a second; what it throws ends all. Throws InvalidInput where there is no such host.
[[nodiscard]] std::vector<LoadAnswer> run_load(const LoadTarget& target,
                                               const std::vector<LoadRequest>& requests, int64_t most,
                                               const std::function<void()>& check);

}  // namespace shadowkv
