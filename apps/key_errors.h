// What the factors of an answer's keys lose, while `generate` makes it: their bases are the prompt's.
#pragma once

#include <cstdint>
#include <vector>

#include "json_output.h"
#include "shadowkv/shadowkv.h"

namespace shadowkv::apps {

class KeyErrors {
 public:
  // every: tokens that are told of together, at least 1.
  explicit KeyErrors(int64_t every) : every_(every) {}

  // Sees the layers of one sequence's steps.
  void add(const LayerObservation& seen);
  // Tells of what is left, once the answer has ended.
  void finish();

  // [{"tokens": taken in so far, "lost_share": of the energy of these tokens' keys, null where keys are held
  // as they are}, ...]
  [[nodiscard]] Json json() const;

 private:
  struct Piece {
    int64_t tokens = 0;  // of the answer, all until its end
    double energy = 0, error = 0;
  };
  void tell(const Piece& piece) const;

  int64_t every_;
  Piece piece_;                // that grows
  std::vector<Piece> pieces_;  // that are whole
};

}  // namespace shadowkv::apps
