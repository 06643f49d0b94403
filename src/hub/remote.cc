#include "hub/remote.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <ctime>

#include "base/check.h"
#include "formats/quote.h"
#include "hub/curl_library.h"
#include "hub/names.h"

namespace shadowkv {
namespace {

constexpr int64_t kMostListingBytes = int64_t{64} << 20;

bool is_busy(long status) {
  return status == 408 || status == 425 || status == 429 || status >= 500;
}

int64_t whole_number(std::string_view text) {
  int64_t value = -1;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && rest == text.data() + text.size() ? value : -1;
}

// Retry-After: seconds, or a date.
double wait_of(const HubResponse& response) {
  const std::string text = response.header("retry-after");
  if (text.empty()) return 0;
  if (const int64_t seconds = whole_number(text); seconds >= 0) return static_cast<double>(seconds);
  const std::time_t date = curl_library().getdate(text.c_str(), nullptr);
  return date < 0 ? 0 : std::max(0.0, std::difftime(date, std::time(nullptr)));
}

// As huggingface_hub reads it: W/"value" or "value".
std::string plain_etag(std::string_view etag) {
  while (etag.starts_with('W') || etag.starts_with('/')) etag.remove_prefix(1);
  while (etag.starts_with('"')) etag.remove_prefix(1);
  while (etag.ends_with('"')) etag.remove_suffix(1);
  return std::string(etag);
}

// An answer to a request for a part must be that part of a file of the size that was said.
void check_piece(const HubResponse& response, const RemoteRepository::Piece& piece) {
  const std::string path = printable(piece.file.path);
  if (piece.whole) {
    const int64_t length = response.content_length();
    if (response.status == 200 && (length < 0 || length == piece.file.size)) return;
    throw DeviceFailure(fmt::format("the hub sends {} bytes of {} and said {}; try again later", length, path,
                                    piece.file.size));
  }
  if (response.status == 200) throw RangeRefused(path);
  const std::string range = response.header("content-range");
  const std::string expected = fmt::format("bytes {}-{}/{}", piece.begin, piece.end - 1, piece.file.size);
  if (range != expected) {
    throw DeviceFailure(fmt::format("the hub sends {} of {}, expected {}; try again later", in_quotes(range),
                                    path, in_quotes(expected)));
  }
}

}  // namespace

HubRequest RemoteRepository::request_of(std::string url) const {
  HubRequest request;
  request.url = std::move(url);
  request.token = options_.token;
  request.connect_timeout_s = options_.answer_timeout_s;
  request.stall_timeout_s = options_.answer_timeout_s;
  return request;
}

std::string RemoteRepository::file_url(const std::string& commit, const std::string& path) const {
  return fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, model_.repository, commit,
                     percent_encoded(path, true));
}

std::string RemoteRepository::denial(const HubResponse& response) const {
  const std::string page = fmt::format("{}/{}", options_.endpoint, model_.repository);
  if (response.header("x-error-code") == "GatedRepo") {
    return fmt::format(
        "{} is gated: accept its terms at {}, then set HF_TOKEN to a token of the account that did",
        model_.repository, page);
  }
  if (!options_.token.empty()) {
    return fmt::format(
        "{} is not shown to the owner of this token ({}): check the name, HF_TOKEN and its rights", page,
        response.status);
  }
  return fmt::format(
      "{} does not exist or is private ({}): check the name, or set HF_TOKEN to a token that may read it",
      page, response.status);
}

void RemoteRepository::check_status(const HubResponse& response, const std::string& path) const {
  const long status = response.status;
  if (status == 200 || status == 206) return;
  const std::string host = printable(origin_of(response.url));
  if (is_busy(status)) {
    throw TransientFailure(fmt::format("{} answers {}", host, status), wait_of(response));
  }
  // Links to other hosts are made for one request and end soon.
  if (origin_of(response.url) != options_.endpoint &&
      origin_of(response.url) != origin_of(options_.endpoint)) {
    throw TransientFailure(fmt::format("{} answers {} for {}", host, status, printable(path)));
  }
  require(status != 401 && status != 403, "{}", denial(response));
  const std::string error = response.header("x-error-code");
  require(status != 404 || error != "RevisionNotFound", "{} has no revision {}; see {}/{}", model_.repository,
          in_quotes(model_.revision), options_.endpoint, model_.repository);
  require(status != 404 || path.empty(), "{} has no file {}", model_.repository, printable(path));
  require(status != 404, "there is no model {} at {}, and no such file or folder here; check the name",
          model_.repository, options_.endpoint);
  if (status == 416) {
    throw DeviceFailure(
        fmt::format("{} has fewer bytes of {} than the hub says; try again later", host, printable(path)));
  }
  throw DeviceFailure(
      fmt::format("{} answers {} for {}; check HF_ENDPOINT", host, status, model_.repository));
}

Listing RemoteRepository::list(HubClient& client) const {
  const std::string url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", options_.endpoint,
                                      model_.repository, percent_encoded(model_.revision, false));
  std::string body;
  const HubResponse response =
      client.perform(request_of(url), [&](const HubResponse& answer, std::span<const std::byte> bytes) {
        if (answer.status != 200) return;
        if (static_cast<int64_t>(body.size() + bytes.size()) > kMostListingBytes) {
          throw DeviceFailure(fmt::format("the list of files of {} has no end", model_.repository));
        }
        body.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      });
  check_status(response, "");
  return parse_listing(body, fmt::format("the hub's answer about {}", model_.repository));
}

void RemoteRepository::describe(HubClient& client, const std::string& commit, RemoteFile& file) const {
  HubRequest request = request_of(file_url(commit, file.path));
  request.head = true;
  const HubResponse response = client.perform(request, [](const HubResponse&, std::span<const std::byte>) {});
  const bool leads_away = response.status >= 300 && response.status < 400;
  if (!leads_away) check_status(response, file.path);
  const std::string linked = response.header("x-linked-etag"), size = response.header("x-linked-size");
  file.etag = plain_etag(linked.empty() ? response.header("etag") : linked);
  file.size = whole_number(size.empty() && !leads_away ? response.header("content-length") : size);
  require(!file.etag.empty() && file.size >= 0 && file.size <= kMostFileBytes,
          "the hub says neither checksum nor size of {}; check HF_ENDPOINT", printable(file.path));
  const std::string at = response.header("x-repo-commit");
  require(at.empty() || at == commit, "the hub shows {} at commit {}, expected {}; try again",
          printable(file.path), printable(at), commit);
}

void RemoteRepository::fetch(HubClient& client, const std::string& commit, const Piece& piece,
                             const PieceSink& sink) const {
  HubRequest request = request_of(file_url(commit, piece.file.path));
  request.stall_timeout_s = options_.stall_timeout_s;
  if (!piece.whole) {
    request.begin = piece.begin;
    request.end = piece.end;
  }
  int64_t received = 0;
  const int64_t expected = piece.end - piece.begin;
  const HubResponse response = client.perform(request, [&](const HubResponse& answer,
                                                           std::span<const std::byte> bytes) {
    if (answer.status != 200 && answer.status != 206) return;
    if (received == 0) check_piece(answer, piece);
    received += static_cast<int64_t>(bytes.size());
    if (received > expected) {
      throw DeviceFailure(fmt::format("the hub sends more of {} than the {} bytes it said; try again later",
                                      printable(piece.file.path), expected));
    }
    sink(bytes);
  });
  check_status(response, piece.file.path);
  if (received == 0) check_piece(response, piece);
  if (received < expected) {
    throw TransientFailure(fmt::format("{} ended {} after {} of {} bytes", printable(origin_of(response.url)),
                                       printable(piece.file.path), received, expected));
  }
}

}  // namespace shadowkv
