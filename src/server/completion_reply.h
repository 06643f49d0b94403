// The answer to a completion request on its way to the client: as events while it comes, or as a whole.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/completion_json.h"
#include "server/completion_request.h"
#include "server/http.h"
#include "server/request_counts.h"

namespace shadowkv {

// One line about a request that has ended, without its texts.
struct RequestLine {
  std::string id;
  std::string path;
  int status = 200;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of them
  int64_t new_tokens = 0;
  double first_s = 0;   // until the first token
  double total_s = 0;   // until its end
  std::string outcome;  // "stop", "length", "cancelled", or the type of an error
};
using RequestLog = std::function<void(const RequestLine&)>;

// What a reply is made of besides the streams.
struct ReplyFrame {
  std::string id;     // "chatcmpl-..."
  std::string model;  // its served name
  int64_t created = 0;
  std::vector<HttpHeader> headers;
  const Engine* engine = nullptr;     // for the texts of tokens
  RequestCounter* counter = nullptr;  // of requests that end; none: nobody counts
};

class CompletionReply final : public HttpReply {
 public:
  // streams: best_of for each prompt, in the order of prompts.
  CompletionReply(ReplyFrame frame, const CompletionRequest& request,
                  std::vector<std::unique_ptr<Stream>> streams, RequestLog log);
  ~CompletionReply() override;
  CompletionReply(const CompletionReply&) = delete;
  CompletionReply& operator=(const CompletionReply&) = delete;

  Part next() noexcept override;
  [[nodiscard]] HttpHead head() const override;
  [[nodiscard]] bool streams() const override { return request_.stream && !(error_ && !began_); }

 private:
  struct Call {
    std::string id, name, arguments;
  };
  struct Choice {
    std::unique_ptr<Stream> stream;
    std::optional<ToolCallParser> parser;  // where the answer may hold calls
    std::string text;                      // of a whole answer, so far
    std::vector<Call> calls;               // likewise
    std::vector<TokenEvent> scored;        // tokens with log-probabilities to show that were not sent
    double logprob = 0;                    // sum over all tokens so far, where they have one
    int64_t tokens = 0;                    // of them
    bool has_news = false;                 // tokens came that no text tells of: there is no tokenizer
    bool is_cut = false;                   // all calls that may be made are there
    std::optional<FinishReason> end;       // none: it goes on

    // How likely the model finds it, whatever its length: at most 0.
    [[nodiscard]] double mean_logprob() const {
      return tokens > 0 ? logprob / static_cast<double>(tokens) : 0.0;
    }
  };

  [[nodiscard]] Part next_part();
  void read(std::size_t i, std::string& events);
  [[nodiscard]] ToolDelta take(Choice& choice);
  void add_calls(Choice& choice, const ToolDelta& delta) const;
  [[nodiscard]] nlohmann::json finish_json_of(const Choice& choice) const;
  [[nodiscard]] std::string events_of(std::size_t i, const ToolDelta& delta, bool is_first);
  [[nodiscard]] std::string fail(const std::exception_ptr& error);
  [[nodiscard]] bool has_ended() const;
  [[nodiscard]] std::string event(std::size_t i, const nlohmann::json& part, bool is_last);
  [[nodiscard]] Usage usage() const;
  [[nodiscard]] std::string last_events() const;
  [[nodiscard]] std::vector<std::size_t> shown() const;
  [[nodiscard]] nlohmann::json json_of(const Choice& choice) const;
  [[nodiscard]] std::string whole() const;
  void count(const RequestReport& report, RequestEnd end) const;
  void count_given_up() const;
  void write_line() const;

  ReplyFrame frame_;
  CompletionRequest request_;  // without its prompts
  std::vector<Choice> choices_;
  std::vector<bool> opened_;  // choices whose first event was sent
  std::optional<ApiError> error_;
  bool began_ = false;  // something was handed on
  RequestLog log_;
};

}  // namespace shadowkv
