// The public interface: load a model, read a prompt, generate, ask what it cost. Everything the program does,
// it does through this header.
//
//   auto engine = shadowkv::Engine::load({.model = "model.gguf"});
//   shadowkv::GenerateRequest request;
//   request.prompt_ids = engine->chat_prompt("Who wrote this?");
//   request.max_new_tokens = 64;
//   engine->generate(request, [](const shadowkv::TokenEvent& event) {
//     std::cout << event.text << std::flush;
//     return true;
//   });
//
// Functions throw the exceptions of error.h. An Engine is used by one thread at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shadowkv/attention_config.h"
#include "shadowkv/error.h"

namespace shadowkv {

[[nodiscard]] std::string_view version();

struct ModelInfo {
  std::string name;
  std::string architecture;
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, inner = 0;
  int64_t vocab_size = 0;
  int64_t context = 0;           // tokens the model was trained for
  int64_t parameters = 0;        // embeddings counted once when tied
  bool tied_embeddings = false;  // the table of embeddings is also the last matrix
  bool has_tokenizer = false;
};

// Bytes one sequence takes. either: values, which lie wherever there is room.
struct SequenceFootprint {
  int64_t device = 0;
  int64_t host = 0;
  int64_t either = 0;
};

struct EngineOptions {
  std::filesystem::path model = {};      // .gguf file or Hugging Face folder; empty with `shape`
  std::string shape = {};                // name of a shape to run on random weights instead of a model
  std::filesystem::path tokenizer = {};  // tokenizer.json, .gguf or tiktoken ranks; else the model's own
  std::string device = "cpu";      // cpu, cuda, or auto: a GPU where this build and this machine have one
  std::string dtype = "bfloat16";  // compute and storage type: float32 or bfloat16
  int threads = 0;                 // host threads; 0: one per core
  int64_t device_bytes = 0;        // budget of the device tier; 0: half of the machine's memory
  int64_t host_bytes = 0;          // budget of the host tier; 0: half of the machine's memory
  uint64_t seed = 1;               // of random weights
};

// Model facts without loading the weights, from EngineOptions::model or ::shape.
[[nodiscard]] ModelInfo read_model_info(const EngineOptions& options);
// What a sequence of `tokens` takes under `config` on a model of that shape and compute type.
[[nodiscard]] SequenceFootprint footprint(const EngineOptions& options, const AttentionConfig& config,
                                          int64_t tokens);
// The configuration as it will run on that model (automatic values filled in), checked; notes say what was
// taken as something else (a rank over the width, a budget over the context).
struct ResolvedAttention {
  AttentionConfig config;
  std::vector<std::string> notes;
};
[[nodiscard]] ResolvedAttention resolve(const EngineOptions& options, const AttentionConfig& config);

// Progress of a long call, 0 to 1. Throw Interrupted from it to stop; everything held is given back.
using Progress = std::function<void(double share)>;

struct SamplingParams {
  double temperature = 0.0;  // 0: greedy
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;        // (0, 1]
  uint64_t seed = 0;
};

// Picks one token of a row of logits. Same seed and rows, same tokens, whatever else runs.
class Sampler {
 public:
  explicit Sampler(const SamplingParams& params);  // throws InvalidInput naming field and value
  [[nodiscard]] int32_t pick(std::span<const float> logits);

 private:
  SamplingParams params_;
  uint64_t drawn_ = 0;
};

using SequenceId = int64_t;

struct SequenceToken {
  SequenceId sequence = 0;
  int32_t token = 0;
};

// Counts since the session began, of one method.
struct SessionStatistics {
  std::array<int64_t, 2> held_bytes{};  // now, by this method: device, host
  int64_t decode_steps = 0;             // sequence steps
  int64_t context_tokens = 0;           // tokens held, summed over sequence steps
  double attended_tokens = 0;           // of them attended per KV head and layer, summed likewise
  int64_t chosen_chunks = 0;            // over layers and KV heads
  int64_t slot_hits = 0;                // of them found in the slot cache
};

// Runs of one op (src/kernels/kernels.h) on matrices of one size.
struct OpTime {
  std::string op;
  int64_t rows = 0, columns = 0;  // of its weight matrix; 0 where it has none
  int64_t runs = 0;
  double seconds = 0;  // of all of them
};

// Sequences in flight under one or more methods that share one exact prefill. The building block of
// everything below; logits are float32 over the vocabulary.
class Session {
 public:
  virtual ~Session() = default;

  // A new, empty sequence that may grow to max_tokens (prompt and answer).
  virtual SequenceId add(int64_t max_tokens) = 0;
  // Reads a prompt (at least one token) into an empty sequence. Returns the logits of its last position.
  virtual std::vector<float> prefill(SequenceId sequence, std::span<const int32_t> ids,
                                     const Progress& progress = {}) = 0;
  // Appends one token to each of several sequences under one method; returns [batch.size(), vocab] logits.
  // The methods of a session go on independently after the prefill.
  virtual std::vector<float> decode(int64_t method, std::span<const SequenceToken> batch) = 0;
  // The same, but only the likeliest next token of each comes back.
  virtual std::vector<int32_t> decode_greedy(int64_t method, std::span<const SequenceToken> batch) = 0;

  // For benchmarks: an empty sequence holds `tokens` tokens of made-up state under every method, as if it had
  // read a prompt of that length.
  virtual void fill(SequenceId sequence, int64_t tokens, uint64_t seed) = 0;
  // For benchmarks: a method's choices are paid for, then replaced by ones of which that share [0, 1] is
  // found in the slot cache; negative: choices stand.
  virtual void force_hit_share(int64_t method, double share) = 0;
  // For benchmarks: from now on every op of the engine is timed (or none). Ops then run one after the other,
  // even those that overlap otherwise. On a GPU a step is recorded at its second time and replayed from the
  // third on, marks between ops included: only from then on do times hold no gaps between launches.
  virtual void time_ops(bool on) = 0;
  // Times of the ops since the last call, in order of their first runs. Only while ops are timed.
  [[nodiscard]] virtual std::vector<OpTime> op_times() = 0;

  virtual void remove(SequenceId sequence) = 0;
  [[nodiscard]] virtual SessionStatistics statistics(int64_t method) const = 0;
};

// One a token of the answer, the one that ends it included.
struct TokenEvent {
  int32_t id = 0;
  std::string text;  // what became complete with it; empty while a character is incomplete
};
using TokenCallback = std::function<bool(const TokenEvent&)>;  // false ends the answer

enum class FinishReason : uint8_t { stop, length, cancelled };
[[nodiscard]] std::string_view name_of(FinishReason reason);

struct GenerateRequest {
  std::string prompt;               // text; special tokens written in it count as such
  std::vector<int32_t> prompt_ids;  // used instead of `prompt` when not empty
  AttentionConfig attention;
  SamplingParams sampling;
  int64_t max_new_tokens = 256;
  bool ignore_eos = false;
  bool keep_logits = false;  // fill GenerateResult::logits
  Progress prefill_progress;
};

struct GenerateResult {
  std::vector<int32_t> ids;
  std::string text;
  FinishReason finish = FinishReason::length;
  int64_t prompt_tokens = 0;
  double ttft_s = 0;    // from the call to the first token
  double decode_s = 0;  // all tokens after the first
  SessionStatistics statistics;
  std::vector<float> logits;  // [ids.size(), vocab]: row i is what ids[i] was picked from
};

// Memory held by the whole engine, by tier (device, host) and purpose.
struct EngineMemory {
  std::array<int64_t, 2> held{}, peak{}, budget{};
  std::vector<std::pair<std::string, std::array<int64_t, 2>>> by_purpose;
};

class Engine {
 public:
  static std::unique_ptr<Engine> load(const EngineOptions& options, const Progress& progress = {});
  virtual ~Engine() = default;

  [[nodiscard]] virtual const ModelInfo& model() const = 0;
  [[nodiscard]] virtual bool is_eos(int32_t id) const = 0;

  // Text and ids; throw InvalidInput when the model came without a tokenizer, or for invalid UTF-8.
  [[nodiscard]] virtual std::vector<int32_t> tokenize(std::string_view text) const = 0;
  [[nodiscard]] virtual std::string detokenize(std::span<const int32_t> ids,
                                               bool skip_special = true) const = 0;
  // The user's message as the model's chat format wants it, ready for an answer. Special tokens spelled in
  // the message stay plain text.
  [[nodiscard]] virtual std::vector<int32_t> chat_prompt(std::string_view user_message) const = 0;
  // A function that turns ids into text piece by piece, never half a character; call with -1 at the end.
  [[nodiscard]] virtual std::function<std::string(int32_t)> streaming_detokenizer() const = 0;

  // Throws InvalidInput for an empty prompt, ids outside the vocabulary, or a prompt beyond the context;
  // OutOfMemory (with both numbers) when it cannot fit.
  virtual GenerateResult generate(const GenerateRequest& request, const TokenCallback& on_token) = 0;
  // Methods run side by side on one prefill; names in messages follow their order.
  [[nodiscard]] virtual std::unique_ptr<Session> open(std::span<const AttentionConfig> methods) = 0;

  [[nodiscard]] virtual ResolvedAttention resolve(const AttentionConfig& config) const = 0;
  [[nodiscard]] virtual SequenceFootprint footprint(const AttentionConfig& config, int64_t tokens) const = 0;
  [[nodiscard]] virtual EngineMemory memory() const = 0;
};

}  // namespace shadowkv
