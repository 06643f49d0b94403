// A repository on a hub: its listing and its files, by the hub's endpoints.
#pragma once

#include <functional>
#include <string>

#include "hub/http.h"
#include "hub/listing.h"
#include "shadowkv/hub.h"

namespace shadowkv {

class RemoteRepository {
 public:
  // Both outlive it.
  RemoteRepository(const HubModel& model, const HubOptions& options) : model_(model), options_(options) {}

  // What it holds at model.revision. Throws InvalidInput where it is not there or not to be had,
  // TransientFailure and DeviceFailure.
  [[nodiscard]] Listing list(HubClient& client) const;
  // Fills in checksum and size of a file by a HEAD request.
  void describe(HubClient& client, const std::string& commit, RemoteFile& file) const;
  // Bytes [begin, end) of a file go to `sink` one after the other; where `whole`, no range is asked for.
  // Throws RangeRefused where the server sends all instead, TransientFailure for an answer that ends too
  // early, DeviceFailure for one of another size than was said.
  struct Piece {
    const RemoteFile& file;
    int64_t begin = 0;
    int64_t end = 0;
    bool whole = false;
  };
  using PieceSink = std::function<void(std::span<const std::byte>)>;
  void fetch(HubClient& client, const std::string& commit, const Piece& piece, const PieceSink& sink) const;

 private:
  [[nodiscard]] HubRequest request_of(std::string url) const;
  [[nodiscard]] std::string file_url(const std::string& commit, const std::string& path) const;
  // Throws unless the answer is 200 or 206.
  void check_status(const HubResponse& response, const std::string& path) const;
  [[nodiscard]] std::string denial(const HubResponse& response) const;

  const HubModel& model_;
  const HubOptions& options_;
};

// The server sends the whole file where a part of it was asked for.
class RangeRefused : public Error {
 public:
  using Error::Error;
};

}  // namespace shadowkv
