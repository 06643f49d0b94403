// The public interface: load a model, read a prompt, generate, ask what it cost. Everything the program does,
// it does through this header.
//
//     auto engine = shadowkv::Engine::load({.model = "model.gguf"});
//     shadowkv::GenerateRequest request;
//     request.prompt_ids = engine->chat_prompt("Who wrote this?");
//     request.max_new_tokens = 64;
//     engine->generate(request, [](const shadowkv::TokenEvent& event) {
//       std::cout << event.text << std::flush;
//       return true;
//     });
//
// Functions throw the exceptions of error.h, and std::bad_alloc where the machine's memory ends. After an
// exception the object can be used on. An Engine is used by one thread at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shadowkv/attention_config.h"
#include "shadowkv/chat_request.h"
#include "shadowkv/error.h"
#include "shadowkv/link_bytes.h"

namespace shadowkv {

// "0.1.0": of this library.
[[nodiscard]] std::string_view version();

// What a model is, before any of its weights is read.
struct ModelInfo {
  std::string name;          // as the file calls itself
  std::string architecture;  // "llama", "qwen2", ...
  int64_t layers = 0;        // transformer blocks
  int64_t hidden = 0;        // width of the residual stream
  int64_t heads = 0;         // query heads
  int64_t kv_heads = 0;      // heads of keys and values
  int64_t head_dim = 0;      // numbers of a head
  int64_t inner = 0;         // width of the gated MLP
  int64_t vocab_size = 0;    // logits of a row
  int64_t context = 0;       // tokens the model is made for: trained, or stretched by its rule of positions
  int64_t parameters = 0;    // embeddings counted once when tied
  bool tied_embeddings = false;  // the table of embeddings is also the last matrix
  bool has_tokenizer = false;    // whether text can be given and taken
};

// Bytes one sequence takes.
struct SequenceFootprint {
  int64_t device = 0;  // bytes of device memory
  int64_t host = 0;    // bytes of host memory
  int64_t either = 0;  // bytes of values, which lie wherever there is room
};

// What to load, and what of the machine to use.
struct EngineOptions {
  std::filesystem::path model = {};          // .gguf file or Hugging Face folder; empty with a shape
  std::string shape = {};                    // name of a shape to run on random weights instead of a model
  std::filesystem::path tokenizer = {};      // tokenizer.json, .gguf or tiktoken ranks; else the model's own
  std::filesystem::path chat_template = {};  // file of Jinja; else what came with the tokenizer
  std::string device = "cpu";      // cpu, cuda or cuda:N, or auto: a GPU where build and machine have one
  std::string dtype = "bfloat16";  // compute and storage type: float32 or bfloat16
  std::string weights = "dtype";   // matrices: as dtype, or int8, in codes with a scale a row
  int threads = 0;                 // host threads; 0: one per core
  int64_t device_bytes = 0;        // budget of the device tier; 0: what a GPU has free less 3 GiB, on the
                                   // CPU half of the machine's memory
  int64_t host_bytes = 0;          // budget of the host tier; 0: half of the machine's memory
  uint64_t seed = 1;               // of random weights
};

// Model facts without loading the weights, from options.model or options.shape. Throws InvalidInput for a
// file that is no model, or an unknown shape.
[[nodiscard]] ModelInfo read_model_info(const EngineOptions& options);
// What a sequence of `tokens` takes under `config` on that model in its compute type. Throws InvalidInput as
// resolve() does, and for fewer than one token.
[[nodiscard]] SequenceFootprint footprint(const EngineOptions& options, const AttentionConfig& config,
                                          int64_t tokens);
// A configuration as it will run on a model.
struct ResolvedAttention {
  AttentionConfig config;          // automatic values filled in
  std::vector<std::string> notes;  // what was taken as something else: a rank over the width, a budget over
                                   // the context
};
// Throws InvalidInput naming field, value and range for what cannot run, and as read_model_info() does.
[[nodiscard]] ResolvedAttention resolve(const EngineOptions& options, const AttentionConfig& config);

// Progress of a long call, 0 to 1. Throw Interrupted from it to stop; everything held is given back.
using Progress = std::function<void(double share)>;

// How the tokens of an answer are chosen. From a row of logits the next token comes by these steps:
//   1. logit_bias is added;
//   2. repetition_penalty divides a positive logit and multiplies a negative one, of each token that stands
//   in
//      the prompt or in the answer so far; then frequency_penalty, as often as the token stands in the
//      answer, and presence_penalty, once if it does, are subtracted;
//   3. before min_tokens, tokens that end the answer become impossible; so do all that regex, json_schema or
//      json_object does not allow;
//   4. temperature 0 takes the likeliest, whatever the fields below say. Otherwise logits are divided by
//      temperature; min_p, then top_k, then top_p keep some, and one of these is drawn by its share.
struct SamplingParams {
  double temperature = 0.0;         // 0: greedy; finite
  int64_t top_k = 0;                // most tokens to draw from; 0: all
  double top_p = 1.0;               // share of the probability to draw from, (0, 1]
  double min_p = 0.0;               // least probability to be drawn, as a share of the likeliest's, [0, 1]
  uint64_t seed = 0;                // of the random numbers
  double repetition_penalty = 1.0;  // over prompt and answer, (0, 10]; 1: none
  double presence_penalty = 0.0;    // over the answer, in logits, [-2, 2]
  double frequency_penalty = 0.0;   // over the answer, in logits for each time, [-2, 2]
  std::map<int32_t, double> logit_bias = {};  // by token id, in logits, [-100, 100]
  int64_t min_tokens = 0;                     // tokens before the answer may end, from 0 to its most; 0: none
  std::vector<int32_t> stop_ids = {};         // tokens that end an answer besides the model's own
  // Texts that end an answer: neither they nor what follows is shown. At most 64, of 1 to 1,024 bytes of
  // UTF-8. What stands before min_tokens is no part of one.
  std::vector<std::string> stop = {};
  // At most one of the three, and neither with min_tokens nor with end tokens that are ignored. The answer
  // then ends by itself where nothing more may come, else with an end token; only the most tokens, stop_ids
  // and stop end it before it is whole.
  std::string regex = {};        // what the whole answer must match (src/constraint/regex.h); empty: anything
  std::string json_schema = {};  // of the JSON value that it must be (src/constraint/json_schema.h)
  bool json_object = false;      // it must be a JSON object
  // Log-probabilities of each token and of so many of the likeliest, 0 to 20: of the model's own
  // distribution, before all of the above. None: not asked for.
  std::optional<int64_t> logprobs = {};
};

// Throws InvalidInput naming field and value for what is out of range, and both fields for what contradicts.
void check_sampling(const SamplingParams& params);

// The log-probability of a token where another may have been chosen.
struct TokenLogprob {
  int32_t id = 0;        // the token
  float logprob = 0.0f;  // natural logarithm of its probability, at most 0
};

class Constraint;

// What a Sampler has to know of a request besides how to choose.
struct SamplingContext {
  std::span<const int32_t> prompt = {};      // counts for repetition_penalty
  std::span<const int32_t> end_tokens = {};  // that are impossible before min_tokens, stop_ids besides
  std::shared_ptr<const Constraint> constraint = {};  // made of the parameters by Engine::make_sampler()
};

// Picks one token of a row of logits after the other. Same parameters, context and rows, same tokens,
// whatever else runs. Engine::make_sampler() makes one that knows the model.
class Sampler {
 public:
  // Throws InvalidInput naming field and value. `context` is copied where it is needed.
  explicit Sampler(const SamplingParams& params, const SamplingContext& context = {});
  ~Sampler();
  Sampler(const Sampler& other);                 // goes on by itself from where `other` is
  Sampler& operator=(const Sampler& other);      // likewise
  Sampler(Sampler&& other) noexcept;             // leaves one that may only be assigned to
  Sampler& operator=(Sampler&& other) noexcept;  // likewise

  // logits: [vocab], finite. Returns an id below vocab; throws InvalidInput for an empty row, and for one
  // that is shorter than ids that the parameters name. Tokens less likely than the likeliest by 2^40 and more
  // are never drawn.
  [[nodiscard]] int32_t pick(std::span<const float> logits);

  // How it picks.
  [[nodiscard]] const SamplingParams& params() const { return params_; }
  // Tokens picked so far. What comes next depends on them and on the logits alone.
  [[nodiscard]] uint64_t picked() const { return picked_; }
  // Whether the answer is whole and nothing may follow.
  [[nodiscard]] bool is_finished() const;
  // Goes on as if it had picked that token.
  void take(int32_t token);
  // Of the latest pick, where params().logprobs asks for them: of the token itself, then of the likeliest,
  // the most likely first, of equals the lower id. Empty otherwise, and after take().
  [[nodiscard]] std::span<const TokenLogprob> logprobs() const;

 private:
  friend class StepSampling;
  struct State;

  SamplingParams params_;
  uint64_t picked_ = 0;
  std::unique_ptr<State> state_;  // null where the logits are drawn from as they are
};

// Names a sequence within its Session.
using SequenceId = int64_t;

// A token to append to a sequence.
struct SequenceToken {
  SequenceId sequence = 0;  // from Session::add()
  int32_t token = 0;        // [0, vocab)
};

// What a file of saved state holds besides the state itself.
struct StateContents {
  std::vector<int32_t> ids;  // tokens of the sequence, and maybe some that it has yet to take in
  int64_t held = 0;          // of them held; when saving, what the sequence holds
  std::string note;          // whatever its writer wants to find again: at most 64 MiB
  // When loaded, what the sequence may grow to: what it was added for, or less where the rule of its
  // positions, fixed when the saved one began, reaches no further (LongRoPE, dynamic).
  int64_t max_tokens = 0;
};

// Facts of a file of saved state.
struct StateInfo {
  std::string model;      // name of the model that it is of
  std::string dtype;      // of computation
  std::string attention;  // every knob that changes results, as "name=value,..."
  int64_t tokens = 0;     // held
  int64_t bytes = 0;      // of its content
};

// Throws InvalidInput for a file that cannot be read, is no saved state, of a newer version or damaged, as
// far as this can be said without reading all of it.
[[nodiscard]] StateInfo read_state_info(const std::filesystem::path& path);

// Counts since the session began, of one method.
struct SessionStatistics {
  std::array<int64_t, 2> held_bytes{};  // now, by this method: device, host
  int64_t decode_steps = 0;             // sequence steps
  int64_t context_tokens = 0;           // tokens held, summed over sequence steps
  double attended_tokens = 0;           // of them attended per KV head and layer, summed likewise
  int64_t chosen_chunks = 0;            // over layers and KV heads
  int64_t slot_hits = 0;                // of them found in the slot cache
  LinkBytes link = {};                  // between device and host memory

  // What was counted after `before`, of the same method; held_bytes are these.
  [[nodiscard]] SessionStatistics since(const SessionStatistics& before) const;
};

// Runs of one op (src/kernels/kernels.h) on matrices of one size.
struct OpTime {
  std::string op;       // its name there
  int64_t rows = 0;     // of its weight matrix; 0 where it has none
  int64_t columns = 0;  // likewise
  int64_t runs = 0;     // how often it ran
  double seconds = 0;   // of all runs together
};

// What attention did for one sequence in one layer of a decode step. Good during the call alone.
struct LayerObservation {
  SequenceId sequence = 0;        // whose token it is
  int64_t layer = 0;              // from 0
  int64_t heads = 0;              // of queries; the first heads / kv_heads share the first KV head, and so on
  int64_t kv_heads = 0;           // of keys and values
  int64_t head_dim = 0;           // numbers a head
  float scale = 0;                // of the products of queries and keys before the softmax
  std::span<const float> q;       // [heads, head_dim], rotated
  std::span<const float> output;  // [heads, head_dim], before the output projection
  // [kv_heads] positions that were attended, ascending; the token's own is the last.
  std::span<const std::vector<int32_t>> attended;
  // Keys of all tokens, [tokens, kv_heads, head_dim], rotated, where the method holds them as they are: full
  // attention, and sequences below `exact_below`. Empty otherwise.
  std::span<const float> k;
  std::span<const float> v;  // values, likewise
  // Of the token's own key before rotation, all KV heads together, its squared distance from its segment's
  // mean; 0 where keys are held as they are.
  double key_energy = 0;
  double key_error = 0;  // likewise from what is kept of it
};
// Sees each layer of each sequence of a step.
using LayerObserver = std::function<void(const LayerObservation&)>;

// Sequences in flight under one or more methods that share one exact prefill. The building block of
// everything below; logits are float32 over the vocabulary. Methods count from 0 in the order of
// Engine::open(). Every function throws InvalidInput for a sequence or method that does not exist.
class Session {
 public:
  virtual ~Session() = default;

  // A new, empty sequence that may grow to max_tokens (prompt and answer), 1 to the model's context; throws
  // InvalidInput otherwise. Takes no memory yet.
  virtual SequenceId add(int64_t max_tokens) = 0;
  // Reads a prompt (at least one token, ids in [0, vocab)) into an empty sequence or, under one method,
  // behind what a sequence holds: the new tokens then attend to all of that, nothing selected away, and cost
  // their own reading and one pass over it. Returns the logits of its last position, [vocab]. Throws
  // InvalidInput for other prompts and where the sequence would be longer than it may, OutOfMemory with what
  // is needed and what is free before any work is done, and what `progress` throws; the sequence then holds
  // what it held.
  virtual std::vector<float> prefill(SequenceId sequence, std::span<const int32_t> ids,
                                     const Progress& progress = {}) = 0;
  // The same, but only the next token comes back: the one that sampler.pick() would pick from those logits,
  // drawn where they lie, as decode_sampled() does. The sampler goes on only where it succeeds; throws what
  // the sampler refuses, too.
  virtual int32_t prefill_sampled(SequenceId sequence, std::span<const int32_t> ids, Sampler& sampler,
                                  const Progress& progress = {}) = 0;
  // Appends one token to each of several sequences under one method; returns [batch.size(), vocab] logits.
  // The methods of a session go on independently after the prefill. Throws InvalidInput for an empty batch, a
  // sequence that stands in it twice, has no prompt or is full, and ids outside of the vocabulary;
  // OutOfMemory when a tier is full. No sequence has then moved.
  virtual std::vector<float> decode(int64_t method, std::span<const SequenceToken> batch) = 0;
  // The same, but only the next token of each comes back, [batch.size()]: the one that samplers[i]->pick()
  // would pick from row i, or the likeliest where that is null. All of it happens where the logits lie; what
  // a sampler changes or ranks there takes memory until the sequence is removed. Samplers go on only where it
  // succeeds; throws InvalidInput for more or fewer of them than sequences, too. One sampler may stand for
  // one sequence only.
  virtual std::vector<int32_t> decode_sampled(int64_t method, std::span<const SequenceToken> batch,
                                              std::span<Sampler* const> samplers) = 0;
  // The same with the likeliest token of each.
  virtual std::vector<int32_t> decode_greedy(int64_t method, std::span<const SequenceToken> batch) = 0;

  // For benchmarks: an empty sequence holds `tokens` tokens of made-up state under every method, as if it had
  // read a prompt of that length.
  virtual void fill(SequenceId sequence, int64_t tokens, uint64_t seed) = 0;
  // For benchmarks: a method's choices are paid for, then replaced by ones of which that share [0, 1] is
  // found in the slot cache; negative: choices stand.
  virtual void force_hit_share(int64_t method, double share) = 0;
  // For evaluation: who sees the layers of that method's steps from now on; an empty one ends it. Such steps
  // are slow: each layer is read back. What the observer throws comes out of decode(), and no sequence has
  // then moved.
  virtual void observe(int64_t method, LayerObserver observer) = 0;

  // For benchmarks: from now on every op of the engine is timed (or none). Ops then run one after the other,
  // even those that overlap otherwise. On a GPU a step is recorded at its second time and replayed from the
  // third on, marks between ops included: only from then on do times hold no gaps between launches.
  virtual void time_ops(bool on) = 0;
  // Times of the ops since the last call, in order of their first runs. Only while ops are timed.
  [[nodiscard]] virtual std::vector<OpTime> op_times() = 0;

  // A new sequence that holds what another holds under every method, and may grow to max_tokens: each goes on
  // by itself, as though it had read and decoded all of it. What is full of what they hold is theirs in
  // common and takes memory once; what they will still write to is copied. Throws InvalidInput for a sequence
  // that holds nothing, or more than max_tokens, or is reading, for more than the model's context, and for
  // more than the rule of its positions reaches where it was added for few tokens (LongRoPE, dynamic);
  // OutOfMemory, with what is needed and what is free, where growing so far would not fit.
  virtual SequenceId fork(SequenceId sequence, int64_t max_tokens) = 0;

  // Writes all that a sequence holds to a file, whole or not at all: a temporary file beside it is filled,
  // brought to the disk and renamed. Under one method alone. Throws InvalidInput for a sequence that holds
  // nothing, ids that are fewer than its tokens and a place that cannot be written, DeviceFailure where the
  // disk fails or is full; what was there is then as it was.
  virtual void save_state(SequenceId sequence, const std::filesystem::path& path,
                          const StateContents& contents) = 0;
  // Fills an empty sequence from such a file; it then goes on as the other would have, token for token.
  // Throws InvalidInput naming both for another model, type or attention (knobs that only change time may
  // differ), and for a file that is no state, of a newer version, or damaged anywhere; OutOfMemory as
  // prefill() does. The sequence is then empty.
  virtual StateContents load_state(SequenceId sequence, const std::filesystem::path& path) = 0;

  // Gives back all that the sequence holds; an unknown one is ignored.
  virtual void remove(SequenceId sequence) = 0;
  // Of one method, over all sequences since the session began.
  [[nodiscard]] virtual SessionStatistics statistics(int64_t method) const = 0;
};

// One a token of the answer, the one that ends it included.
struct TokenEvent {
  int32_t id = 0;  // the token
  // What is certain to be shown with it; empty while a character is incomplete or a stop text may have begun.
  std::string text = {};
  // Where SamplingParams::logprobs asks for them: of the token itself, then of the likeliest, best first.
  std::vector<TokenLogprob> logprobs = {};
};
// Sees each token as it comes; false ends the answer.
using TokenCallback = std::function<bool(const TokenEvent&)>;

// Why an answer ended.
enum class FinishReason : uint8_t {
  stop,      // with one of the model's end tokens, or with one or a text that was to end it
  length,    // at max_new_tokens, or at the end of the context
  cancelled  // by the callback
};
// "stop", "length" or "cancelled".
[[nodiscard]] std::string_view name_of(FinishReason reason);

// A prompt, and how to answer it.
struct GenerateRequest {
  std::string prompt;               // text; special tokens written in it count as such
  std::vector<int32_t> prompt_ids;  // used instead of the text when not empty; [0, vocab)
  AttentionConfig attention;        // how to attend to the prompt
  SamplingParams sampling;          // how to pick tokens
  int64_t max_new_tokens = 256;     // tokens of the answer at most, from 1; the context may end it sooner
  bool ignore_eos = false;          // go on after one of the model's end tokens
  bool keep_logits = false;         // fill GenerateResult::logits
  Progress prefill_progress;        // of reading the prompt; may be empty
  LayerObserver observer;           // of the answer's steps; may be empty
};

// An answer, and what it cost.
struct GenerateResult {
  std::vector<int32_t> ids;                    // of the answer, what ended it included
  std::string text;                            // what is shown of it; empty without a tokenizer
  FinishReason finish = FinishReason::length;  // why it ended
  int64_t prompt_tokens = 0;                   // tokens of the prompt
  int64_t held_tokens = 0;                     // of them held already, by a Conversation
  double ttft_s = 0;                           // seconds from the call to the first token
  double decode_s = 0;                         // seconds of all tokens after the first
  SessionStatistics statistics;                // of the answer's steps
  std::vector<float> logits;                   // [ids.size(), vocab]: row i is what ids[i] was picked from
  std::vector<std::vector<TokenLogprob>> logprobs;  // [ids.size()] as in TokenEvent, where asked for
};

// Answers to prompts each of which mostly goes on where the last answer ended, as the turns of a chat do.
// What the last prompt and answer left in memory is not read again: where the next prompt begins with all of
// it, only the tokens behind that are read, attending to all of it (Session::prefill), or where this takes
// less work are taken in by decode steps, as an answer's own tokens are. Any other prompt is read as a whole,
// as by Engine::generate(); so is one that a sparse sequence holds less than half of. Must be gone before its
// engine.
class Conversation {
 public:
  virtual ~Conversation() = default;

  // As Engine::generate(), but for the request's attention, which is passed over. What a progress or callback
  // throws leaves what has been taken in until then.
  virtual GenerateResult answer(const GenerateRequest& request, const TokenCallback& on_token) = 0;
  // Tokens in memory.
  [[nodiscard]] virtual int64_t held_tokens() const = 0;
  // Tokens of the last prompt and its answer: those in memory and, as a rule, the answer's last.
  [[nodiscard]] virtual std::vector<int32_t> ids() const = 0;
  // Another that stands where this one does: what is in memory is theirs in common, and each goes on by
  // itself. Throws OutOfMemory, as Session::fork() does.
  [[nodiscard]] virtual std::unique_ptr<Conversation> fork() const = 0;
  // As Session::save_state(), of all that is in memory; ids() are found again, as is `note`.
  virtual void save_state(const std::filesystem::path& path, const std::string& note) const = 0;
  // As Session::load_state(), in place of what is in memory, which stays where it fails. Returns the note.
  virtual std::string load_state(const std::filesystem::path& path) = 0;
  // Gives all of them back.
  virtual void forget() = 0;
};

// Memory held by the whole engine, in bytes by tier (device, host).
struct EngineMemory {
  std::array<int64_t, 2> held{};                                           // now
  std::array<int64_t, 2> peak{};                                           // the most so far
  std::array<int64_t, 2> budget{};                                         // what it may hold
  std::vector<std::pair<std::string, std::array<int64_t, 2>>> by_purpose;  // now: "weights", "values", ...
};

class Service;
struct ServiceOptions;

// A model in memory, with its tokenizer and its device. Sessions must be gone before their engine.
class Engine {
 public:
  // Throws InvalidInput for options and files that cannot be used, OutOfMemory when the weights do not fit
  // the budgets, DeviceFailure when a GPU or the file system fails, and what `progress` throws.
  static std::unique_ptr<Engine> load(const EngineOptions& options, const Progress& progress = {});
  virtual ~Engine() = default;

  // Facts of the model.
  [[nodiscard]] virtual const ModelInfo& model() const = 0;
  // Whether the token ends an answer.
  [[nodiscard]] virtual bool is_eos(int32_t id) const = 0;

  // Ids of a text; special tokens written in it count as such. Throws InvalidInput when the model came
  // without a tokenizer, as all of these do, and for invalid UTF-8 with the byte's offset.
  [[nodiscard]] virtual std::vector<int32_t> tokenize(std::string_view text) const = 0;
  // Text of ids: bytes that form no character become U+FFFD, ids without token nothing. Throws InvalidInput
  // for a negative id.
  [[nodiscard]] virtual std::string detokenize(std::span<const int32_t> ids,
                                               bool skip_special = true) const = 0;
  // The user's message as the model's chat format wants it, ready for an answer. Special tokens spelled in
  // the message stay plain text. Throws InvalidInput as the next does.
  [[nodiscard]] virtual std::vector<int32_t> chat_prompt(std::string_view user_message) const = 0;
  // The same of a whole conversation, by the chat template that came with the model's tokenizer; without one,
  // as ChatML. Special tokens spelled in the request stay plain text, in any of its fields. Throws
  // InvalidInput for a request that is not JSON of that form, for a template that is malformed, fails, passes
  // a limit or refuses the conversation, and where the tokenizer lacks ChatML's tokens.
  [[nodiscard]] virtual std::vector<int32_t> chat_prompt(const ChatRequest& request) const = 0;
  // A function that turns ids into text piece by piece, never half a character; call with -1 at the end.
  [[nodiscard]] virtual std::function<std::string(int32_t)> streaming_detokenizer() const = 0;

  // Answers a prompt; `on_token`, which may be empty, sees each token. Throws InvalidInput for an empty
  // prompt, ids outside of the vocabulary, a prompt beyond the context, sampling and attention out of range;
  // OutOfMemory (with both numbers) when it cannot fit; what `on_token` and the progress throw.
  virtual GenerateResult generate(const GenerateRequest& request, const TokenCallback& on_token) = 0;
  // The same for prompts that go on from each other. Throws InvalidInput as resolve() does.
  [[nodiscard]] virtual std::unique_ptr<Conversation> converse(const AttentionConfig& attention) = 0;
  // A sampler for an answer to that prompt; ignore_eos as in GenerateRequest. Throws InvalidInput for
  // parameters out of range or at odds with each other or the model, naming both.
  [[nodiscard]] virtual Sampler make_sampler(const SamplingParams& params, std::span<const int32_t> prompt,
                                             bool ignore_eos) const = 0;
  // Methods, at least one, run side by side on one prefill; names in messages follow their order. Throws
  // InvalidInput as resolve() does.
  [[nodiscard]] virtual std::unique_ptr<Session> open(std::span<const AttentionConfig> methods) = 0;

  // Serves many requests at once (service.h). Throws InvalidInput for options out of range and as resolve()
  // does, OutOfMemory where there is no memory for the method's tables.
  [[nodiscard]] virtual std::unique_ptr<Service> serve(const ServiceOptions& options) = 0;

  // As the functions of these names, for the model that is loaded.
  [[nodiscard]] virtual ResolvedAttention resolve(const AttentionConfig& config) const = 0;
  // Likewise.
  [[nodiscard]] virtual SequenceFootprint footprint(const AttentionConfig& config, int64_t tokens) const = 0;
  // What is held, now and at most.
  [[nodiscard]] virtual EngineMemory memory() const = 0;
};

}  // namespace shadowkv
