// Text <-> token ids: byte-level BPE as tokenizer.json and GGUF files describe it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv {

class GgufFile;

class Tokenizer {
 public:
  // Throw InvalidInput naming the construct when the file asks for something not supported, or lies about its
  // sizes.
  static std::shared_ptr<const Tokenizer> from_gguf(const GgufFile& file);
  static std::shared_ptr<const Tokenizer> from_json_file(const std::filesystem::path& tokenizer_json);
  // A .gguf file, a tokenizer.json, or a folder that holds one.
  static std::shared_ptr<const Tokenizer> open(const std::filesystem::path& path);

  virtual ~Tokenizer() = default;

  struct EncodeOptions {
    bool parse_special = true;  // special tokens written out in the text become their ids
    bool add_special = true;    // what the file adds around a text (a first bos, ...)
  };
  // Throws InvalidInput with the byte offset when `text` is not valid UTF-8 or is longer than 1 GiB. A byte
  // that the vocabulary lacks gives its unknown token or, where there is none, nothing.
  [[nodiscard]] virtual std::vector<int32_t> encode(std::string_view text, EncodeOptions options) const = 0;
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text) const {
    return encode(text, EncodeOptions());
  }

  // Bytes that do not form UTF-8 become U+FFFD. skip_special leaves special tokens out. An id without token
  // gives no text (a model's vocabulary is often padded beyond its tokenizer's); a negative one throws
  // InvalidInput.
  [[nodiscard]] virtual std::string decode(std::span<const int32_t> ids, bool skip_special) const = 0;

  [[nodiscard]] virtual int64_t vocab_size() const = 0;  // ids run from 0 to here; some may have no token
  [[nodiscard]] virtual bool has_token(int32_t id) const = 0;  // false outside of the vocabulary, too
  [[nodiscard]] virtual std::string_view bytes_of(
      int32_t id) const = 0;  // raw bytes; throws on an id without token
  [[nodiscard]] virtual bool is_special(int32_t id) const = 0;
  // Of a token's exact bytes, special ones included; -1: none.
  [[nodiscard]] virtual int32_t id_of(std::string_view token) const = 0;
};

// Turns ids into text piece by piece and never emits half a UTF-8 character: what is incomplete waits.
class StreamingDetokenizer {
 public:
  StreamingDetokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special);
  [[nodiscard]] std::string add(int32_t id);  // text that became complete
  [[nodiscard]] std::string finish();         // what is left; incomplete bytes become U+FFFD

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace shadowkv
