// OpenAI's interface over a service: which path does what. Answers before a model is there, too: with 503.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/completion_reply.h"
#include "server/http.h"
#include "server/request_counts.h"
#include "shadowkv/service.h"

namespace shadowkv {

struct ApiOptions {
  std::string model = {};              // name that the model is served under
  std::vector<std::string> keys = {};  // of which one must come as a bearer's; empty: everybody may ask
  bool open_metrics = false;           // /metrics asks for no key
  RequestLimits limits = {};
  std::optional<ToolFormat> tool_format = {};  // of calls; none: as the chat template writes them
  RequestLog log = {};
};

class Api {
 public:
  explicit Api(ApiOptions options);

  // From now on requests are served; both must outlive this. Once.
  void open(Engine& engine, Service& service);
  // From now on there are no new answers.
  void drain() { draining_ = true; }

  // An HttpHandler: any thread, does not throw.
  [[nodiscard]] std::unique_ptr<HttpReply> handle(const HttpRequest& request, HttpWake wake) noexcept;

 private:
  struct Call;  // a request on its way to what answers it
  using Endpoint = std::unique_ptr<HttpReply> (Api::*)(const Call&);
  struct Route {
    const char* method;
    const char* path;
    Endpoint endpoint;
    bool needs_key;
    bool needs_model;
  };
  static const std::vector<Route>& routes();

  [[nodiscard]] std::unique_ptr<HttpReply> dispatch(const Call& call);
  [[nodiscard]] const Route& route_of(const HttpRequest& request) const;
  void check_key(const HttpRequest& request) const;
  [[nodiscard]] std::string salt_of(const HttpRequest& request, const std::string& asked) const;
  [[nodiscard]] ServedModel served() const { return {*engine_, options_.model, tools_}; }
  [[nodiscard]] std::unique_ptr<HttpReply> submit(const Call& call, const CompletionRequest& request,
                                                  const char* prefix);

  [[nodiscard]] std::unique_ptr<HttpReply> health(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> show_version(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> models(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> model(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> metrics(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> openapi(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> page(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> tokenize(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> detokenize(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> conversations(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> change_conversation(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> drop_conversation(const Call& call);
  [[nodiscard]] KeptPrompt change_kept(const Call& call, const std::string& id, KeptAction action);
  [[nodiscard]] std::unique_ptr<HttpReply> chat(const Call& call);
  [[nodiscard]] std::unique_ptr<HttpReply> completion(const Call& call);

  ApiOptions options_;
  RequestCounter counter_;
  Engine* engine_ = nullptr;    // set before ready_
  Service* service_ = nullptr;  // likewise
  ToolStyle tools_;             // likewise
  std::atomic<bool> ready_{false};
  std::atomic<bool> draining_{false};
  int64_t opened_at_ = 0;  // seconds since 1970; likewise
};

}  // namespace shadowkv
