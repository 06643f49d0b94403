#include "key_errors.h"

#include <fmt/format.h>

#include <iostream>

namespace shadowkv::apps {

void KeyErrors::add(const LayerObservation& seen) {
  if (seen.layer == 0) {
    if (piece_.tokens > 0 && piece_.tokens % every_ == 0) finish();
    ++piece_.tokens;
  }
  piece_.energy += seen.key_energy;
  piece_.error += seen.key_error;
}

void KeyErrors::finish() {
  if (piece_.tokens == (pieces_.empty() ? 0 : pieces_.back().tokens)) return;
  tell(piece_);
  pieces_.push_back(piece_);
  piece_ = {.tokens = piece_.tokens};
}

void KeyErrors::tell(const Piece& piece) const {
  const int64_t before = pieces_.empty() ? 0 : pieces_.back().tokens;
  const std::string lost =
      piece.energy > 0 ? fmt::format("{:.3f} % of their energy lost", 100 * piece.error / piece.energy)
                       : std::string("held as they are");
  std::cerr << fmt::format("keys of the answer's tokens {} to {}: {}\n", before + 1, piece.tokens, lost);
}

Json KeyErrors::json() const {
  Json rows = Json::array();
  for (const Piece& piece : pieces_) {
    const Json lost = piece.energy > 0 ? Json(piece.error / piece.energy) : Json();
    rows.push_back({{"tokens", piece.tokens}, {"lost_share", lost}});
  }
  return rows;
}

}  // namespace shadowkv::apps
