// A compiled regular expression over UTF-8 text.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace shadowkv {

struct RegexMatch {
  int64_t begin, end;  // bytes
};

// Immutable once compiled; threads share it, each with a Scratch of its own.
class Regex {
 public:
  // Throws InvalidInput with the pattern and the reason when it does not compile or is not supported.
  explicit Regex(std::string_view oniguruma_pattern);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  class Scratch {
   public:
    explicit Scratch(const Regex& regex);
    ~Scratch();
    Scratch(Scratch&&) noexcept;
    Scratch& operator=(Scratch&&) noexcept;

   private:
    friend class Regex;
    struct Data;
    std::unique_ptr<Data> data_;
  };

  // The leftmost match at or after `from` (a character boundary). `text` must be valid UTF-8; what lies
  // outside of it does not exist for assertions. Throws InvalidInput when the pattern backtracks without
  // bound.
  [[nodiscard]] std::optional<RegexMatch> find(std::string_view text, int64_t from, Scratch& scratch) const;

 private:
  struct Code;
  std::string pattern_;
  std::unique_ptr<Code> code_;
};

}  // namespace shadowkv
