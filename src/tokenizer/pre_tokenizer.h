// Cuts a text into the pieces that merges never cross.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"
#include "tokenizer/tokenizer_spec.h"

namespace shadowkv {

// Threads share one, each with a Scratch of its own.
class PreTokenizer {
 public:
  using Sink = std::function<void(std::string_view piece)>;  // the piece is valid during the call
  struct Piece {
    std::string_view bytes;  // valid UTF-8
    bool is_first;           // the text as it was given begins with it
  };
  struct Scratch {
    std::vector<std::optional<Regex::Scratch>> steps;
  };

  // Throws InvalidInput for a pattern that is not supported.
  explicit PreTokenizer(std::span<const PreTokenizerStep> steps);

  [[nodiscard]] Scratch make_scratch() const;
  // Pieces in order of the text, none of them empty. Throws InvalidInput when replacing makes a piece longer
  // than kMaxTextBytes.
  void split(Piece text, Scratch& scratch, const Sink& sink) const;

 private:
  struct Step {
    PreTokenizerStep spec;
    std::optional<Regex> regex;  // of split and replace
  };
  void run(size_t step, Piece piece, Scratch& scratch, const Sink& sink) const;
  void run_split(size_t step, Piece piece, Scratch& scratch, const Sink& sink) const;

  std::vector<Step> steps_;
};

}  // namespace shadowkv
