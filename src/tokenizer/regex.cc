#define PCRE2_CODE_UNIT_WIDTH 8

#include "tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "formats/quote.h"
#include "tokenizer/regex_dialect.h"

namespace shadowkv {
namespace {

// Steps allowed for one match: a run of white space costs a few steps a byte, a pattern that explores
// exponentially many ways ends here after about a second.
constexpr uint32_t kFixedSteps = 50'000'000;
constexpr uint32_t kStepsPerByte = 16;

uint32_t step_limit(size_t bytes) {
  constexpr uint64_t kMost = 0xFFFF'FFFFU;
  return static_cast<uint32_t>(std::min<uint64_t>(kMost, kFixedSteps + uint64_t{kStepsPerByte} * bytes));
}

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  if (pcre2_get_error_message(code, buffer.data(), buffer.size()) < 0) return fmt::format("error {}", code);
  return reinterpret_cast<const char*>(buffer.data());
}

struct CodeFree {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct DataFree {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
struct ContextFree {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct CompileContextFree {
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
};

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, CodeFree> code;
};

struct Regex::Scratch::Data {
  std::unique_ptr<pcre2_match_data, DataFree> match;
  std::unique_ptr<pcre2_match_context, ContextFree> context;
};

Regex::Regex(std::string_view oniguruma_pattern)
    : pattern_(oniguruma_pattern), code_(std::make_unique<Code>()) {
  const std::string pattern = oniguruma_to_pcre2(oniguruma_pattern);
  std::unique_ptr<pcre2_compile_context, CompileContextFree> context(pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  code_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                  &offset, context.get()));
  require(code_->code != nullptr, "the pattern '{}' does not compile: {}", printable(pattern_),
          pcre2_message(error));
  // Where memory may not be both written and executed this fails and the interpreter does the matching.
  (void)pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

Regex::Scratch::Scratch(const Regex& regex) : data_(std::make_unique<Data>()) {
  data_->match.reset(pcre2_match_data_create_from_pattern(regex.code_->code.get(), nullptr));
  data_->context.reset(pcre2_match_context_create(nullptr));
  if (!data_->match || !data_->context) throw std::bad_alloc();
}

Regex::Scratch::~Scratch() = default;
Regex::Scratch::Scratch(Scratch&&) noexcept = default;
Regex::Scratch& Regex::Scratch::operator=(Scratch&&) noexcept = default;

std::optional<RegexMatch> Regex::find(std::string_view text, int64_t from, Scratch& scratch) const {
  pcre2_match_context* context = scratch.data_->context.get();
  pcre2_match_data* match = scratch.data_->match.get();
  pcre2_set_match_limit(context, step_limit(text.size()));
  const auto run = [&](uint32_t options) {
    return pcre2_match(code_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                       static_cast<size_t>(from), PCRE2_NO_UTF_CHECK | options, match, context);
  };
  int result = run(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = run(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (result < 0) {
    throw InvalidInput(fmt::format("the pattern '{}' cannot be matched at byte {} of a piece of {} bytes: {}",
                                   printable(pattern_), from, text.size(), pcre2_message(result)));
  }
  const size_t* bounds = pcre2_get_ovector_pointer(match);
  return RegexMatch{static_cast<int64_t>(bounds[0]), static_cast<int64_t>(bounds[1])};
}

}  // namespace shadowkv
