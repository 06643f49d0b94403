// Text <-> token ids: BPE of bytes or characters as tokenizer.json, GGUF and tiktoken's rank files describe
// it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv {

class GgufFile;

// What decoding remembers between two tokens of a text; a new one begins a text.
struct DecodeState {
  bool started = false;  // a token has come
  std::string pending;   // bytes that may yet become a character
  int64_t stripped = 0;  // characters taken off the beginning
};

class Tokenizer {
 public:
  // Throw InvalidInput naming the construct when the file asks for something not supported, or lies about its
  // sizes.
  static std::shared_ptr<const Tokenizer> from_gguf(const GgufFile& file);
  static std::shared_ptr<const Tokenizer> from_json_file(const std::filesystem::path& tokenizer_json);
  // tiktoken's ranks: lines of a token in base64 and its rank. Special tokens come from the
  // tokenizer_config.json beside it.
  static std::shared_ptr<const Tokenizer> from_rank_file(const std::filesystem::path& ranks);
  // A .gguf file, a tokenizer.json, a rank file, or a folder that holds one.
  static std::shared_ptr<const Tokenizer> open(const std::filesystem::path& path);
  // The file that open() reads. Throws InvalidInput where there is none, or no telling which.
  static std::filesystem::path file_at(const std::filesystem::path& path);
  // The folder's tokenizer.json, or else its rank file (*.tiktoken, or a tokenizer.model that is one).
  static std::optional<std::filesystem::path> find_file(const std::filesystem::path& folder);

  virtual ~Tokenizer() = default;

  struct EncodeOptions {
    bool parse_special = true;  // special tokens written out in the text become their ids
    bool add_special = true;    // what the file adds around a text (a first bos, ...)
    // One byte for each of the text's, not 0 where a special token that is written out stays text, even if
    // only in part; empty: nowhere. Tokens of other places are found as if no text stood beside them.
    std::string_view plain = {};
  };
  // Throws InvalidInput with the byte offset when `text` is not valid UTF-8, or when it is longer than 1 GiB
  // or its normalization makes it so. A byte or character that the vocabulary lacks gives its unknown token
  // or, where there is none, nothing.
  [[nodiscard]] virtual std::vector<int32_t> encode(std::string_view text, EncodeOptions options) const = 0;
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text) const {
    return encode(text, EncodeOptions());
  }

  // Bytes that do not form UTF-8 become U+FFFD. skip_special leaves special tokens out. An id without token
  // gives no text (a model's vocabulary is often padded beyond its tokenizer's); a negative one throws
  // InvalidInput.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids, bool skip_special) const;
  // The same by steps: append what becomes complete with `id`, and what has been waiting at the end.
  virtual void decode_next(int32_t id, bool skip_special, DecodeState& state, std::string& text) const = 0;
  virtual void decode_end(DecodeState& state, std::string& text) const = 0;

  [[nodiscard]] virtual int64_t vocab_size() const = 0;  // ids run from 0 to here; some may have no token
  [[nodiscard]] virtual bool has_token(int32_t id) const = 0;  // false outside of the vocabulary, too
  // Raw bytes, as they are anywhere but at the beginning of a text; throws on an id without token.
  [[nodiscard]] virtual std::string_view bytes_of(int32_t id) const = 0;
  [[nodiscard]] virtual bool is_special(int32_t id) const = 0;
  // Of a token's exact bytes, special ones by how they are written; -1: none.
  [[nodiscard]] virtual int32_t id_of(std::string_view token) const = 0;
};

// Turns ids into text piece by piece and never emits half a UTF-8 character: what is incomplete waits. Where
// a byte is a token, a run of such tokens waits for its end, because its last one decides what they all mean.
class StreamingDetokenizer {
 public:
  StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special);
  [[nodiscard]] std::string add(int32_t id);  // text that became complete
  [[nodiscard]] std::string finish();         // what is left; incomplete bytes become U+FFFD

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  DecodeState state_;
};

}  // namespace shadowkv
