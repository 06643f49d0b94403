// Serving many requests at once from one engine: a thread of its own reads prompts between the decode steps
// of those that answer, within both memories' budgets.
//
//     auto engine = shadowkv::Engine::load({.model = "model.gguf"});
//     auto service = engine->serve({});
//     auto stream = service->submit({.prompt_ids = engine->chat_prompt("Who wrote this?")});
//     while (auto event = stream->next()) std::cout << event->text << std::flush;
//
// Every function here may be called from any thread at any time, callbacks included, unless it says
// otherwise.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shadowkv/shadowkv.h"

namespace shadowkv {

// How requests are served.
struct ServiceOptions {
  AttentionConfig attention = {};  // of all requests
  int64_t max_running = 64;        // requests in one decode step at most, from 1
  // Prompts that are read in turns, layer by layer, from 1: short ones so do not wait for long ones. Each
  // takes memory for its activations.
  int64_t max_reading = 4;
  int64_t max_waiting = 1024;  // requests that wait for their turn at most, from 1; more are refused
  // Longest gap between two tokens of an answer while prompts are read, in gaps without, over 1: more reads
  // prompts sooner. Kept as far as the smallest pieces of a prompt allow.
  double max_gap = 2.0;
  // Tokens that memory is set aside for beyond those held, from 1: less lets more requests in, and pauses
  // them more often.
  int64_t growth_tokens = 512;
  // Bytes, in both memories together, that may be kept of prompts that nobody runs with any more, so that
  // requests that begin with the same tokens need not read them again; 0 keeps nothing. It takes what
  // requests leave free alone: the least recently used gives way before any of them waits, is paused or
  // moved. A request that finds the first tokens of its prompt is answered what a sequence answers that has
  // read those, and then the rest as a follow-up turn.
  int64_t prefix_cache_bytes = 0;
  // A folder for what would have to leave both memories; empty: it is let go. A hit from there is what it
  // would be from memory. The least recently used is written first, while nobody is answered or memory fills,
  // by a thread of its own; where room is needed at once for what is not written yet, answers wait for the
  // disk, a second at most between two steps, and what is not written by then is let go. What comes back is
  // read between steps, as prompts are. A later service of the same model and configuration finds the files
  // again; one folder serves one service at a time.
  std::string prefix_cache_dir = {};
  int64_t prefix_cache_disk_bytes = int64_t{64} << 30;  // of files there: the least recently used go first
  // Called with a line on what went wrong with that folder or a file there, which costs time and no answer:
  // by serve(), then on the service's thread; it must return soon, and what it throws is ignored.
  std::function<void(const std::string&)> on_note = {};
};

// One request. Its tokens do not depend on what else is served: on the CPU to the bit, on a GPU as far as
// the sums of its products do not depend on the batch. What is kept of other prompts
// (ServiceOptions::prefix_cache_bytes) decides how its own is read.
struct ServiceRequest {
  std::string prompt = {};               // text; special tokens written in it count as such
  std::vector<int32_t> prompt_ids = {};  // instead of the text; [0, vocab)
  SamplingParams sampling = {};          // how to pick tokens
  int64_t max_new_tokens = 256;          // tokens of the answer, from 1; the context may end it sooner
  bool ignore_eos = false;               // go on after an end token
  // Higher ones are let in first, and keep their memory when it is short.
  int priority = 0;
  // Whose request it is: of one priority, who was served fewer tokens is let in first.
  std::string client = {};
  // Requests find what others have read only where theirs is the same: one for each tenant keeps a tenant's
  // prompts from being guessed by how soon another's answer begins.
  std::string cache_salt = {};
  // Called on the service's thread after each token and at the end; it must return soon. What it throws ends
  // the request as cancelled.
  std::function<void()> on_news = {};
  // For evaluation: sees each layer of this request's steps, on the service's thread, once a token but where
  // a step is taken again for want of memory. Its steps are slow for all who share them: each layer is read
  // back, and nothing is replayed from a recording. What it throws ends the request as cancelled.
  LayerObserver observer = {};
};

// What became of a request.
struct RequestReport {
  bool ended = false;                          // the rest may still change while false
  FinishReason finish = FinishReason::length;  // why it ended; cancelled where it failed
  int64_t prompt_tokens = 0;                   // of its prompt
  int64_t cached_tokens = 0;                   // of them that had been read for another
  int64_t new_tokens = 0;                      // of its answer so far
  int64_t pauses = 0;                          // how often its memory was given to others
  double waited_s = 0;                         // seconds until its prompt began to be read
  double first_s = 0;                          // seconds until its first token, waiting included
  double total_s = 0;                          // seconds until its end
};

// The answer to a request, as it comes. Destroying it cancels the request. It may outlive its service. next
// and try_next are for one thread at a time.
class Stream {
 public:
  virtual ~Stream() = default;
  // The next token, waited for; nothing after the last. Throws what the request failed with: OutOfMemory,
  // DeviceFailure, std::bad_alloc; Interrupted where its service has ended.
  virtual std::optional<TokenEvent> next() = 0;
  // The same without waiting: nothing also while there is none.
  virtual std::optional<TokenEvent> try_next() = 0;
  // Ends the request and gives back its memory, at the latest after the step that runs. Does not wait.
  virtual void cancel() noexcept = 0;
  // What became of it so far.
  [[nodiscard]] virtual RequestReport report() const = 0;
};

// Counts of values in buckets, by a rule of those that derive from it.
template <int buckets>
class BucketCounts {
 public:
  static constexpr int kBuckets = buckets;  // the last one takes all that is larger

  [[nodiscard]] int64_t count() const { return count_; }  // of all
  [[nodiscard]] double sum() const { return sum_; }       // of all values
  // Values up to the upper_bound(bucket) of those that derive, and over that of the bucket before.
  [[nodiscard]] int64_t in_bucket(int bucket) const { return counts_.at(static_cast<std::size_t>(bucket)); }

 protected:
  void count_in(double bucket, double value) {  // bucket: a whole number from 0; too large ones mean the last
    ++counts_[bucket < buckets - 1 ? static_cast<std::size_t>(bucket) : counts_.size() - 1];
    ++count_;
    sum_ += value;
  }

 private:
  std::array<int64_t, static_cast<std::size_t>(buckets)> counts_{};
  int64_t count_ = 0;
  double sum_ = 0;
};

// Counts of durations in buckets that grow by a fourth root of 2, from 10 us to 3 hours.
class DurationHistogram : public BucketCounts<121> {
 public:
  void add(double seconds);                          // counts one, of seconds from 0
  [[nodiscard]] double max() const { return max_; }  // seconds of the longest
  // Upper bound of the bucket that holds the share-th of them; 0 when there are none. share: 0 to 1.
  [[nodiscard]] double quantile(double share) const;
  // Seconds of the longest duration that a bucket takes.
  [[nodiscard]] static double upper_bound(int bucket);

 private:
  double max_ = 0;
};

// Counts of numbers of tokens, parts of one included, in buckets that double, from 1 to a million.
class TokenHistogram : public BucketCounts<22> {
 public:
  void add(double tokens);                              // counts a number, from 0
  [[nodiscard]] static double upper_bound(int bucket);  // most tokens that a bucket takes
};

// What a service does and has done.
struct ServiceStatistics {
  int64_t waiting = 0;  // requests now, by what they are at: for their turn,
  int64_t reading = 0;  // their prompt being read,
  int64_t running = 0;  // answering,
  int64_t paused = 0;   // in host memory until there is room

  int64_t submitted = 0;  // requests taken so far, by how they ended:
  int64_t finished = 0;   // with all of their answer,
  int64_t cancelled = 0;  // by their caller,
  int64_t failed = 0;     // with an exception
  int64_t pauses = 0;     // moved into host memory to make room
  int64_t drops = 0;      // let go to make room, to be read again

  int64_t prompt_tokens = 0;   // read, or found
  int64_t new_tokens = 0;      // answered
  int64_t steps = 0;           // decode steps
  int64_t step_tokens = 0;     // tokens of all steps: divided by steps, the mean batch
  int64_t replayed_steps = 0;  // replayed from a recording; 0 on a device that records none
  int64_t recordings = 0;      // made of steps: of a number of sequences, or of lengths, that is new
  double reading_s = 0;        // seconds of the service's thread: in prompts,
  double index_s = 0;          // of these in what describes the keys of a layer (bases, chunks, landmarks),
  double step_s = 0;           // in decode steps, sampling included,
  double moving_s = 0;         // in pauses and resumptions,
  double scheduling_s = 0;     // in deciding and delivering; what is missing to the whole was idle

  int64_t prefix_asked_tokens = 0;  // of prompts that were looked up among those kept,
  int64_t prefix_hit_tokens = 0;    // and of them found
  int64_t prefix_disk_tokens = 0;   // of them, from files
  int64_t prefixes = 0;             // kept now, in memory,
  int64_t prefix_bytes = 0;         // of them that nobody runs with, in both memories
  int64_t prefix_files = 0;         // kept in files, of those in memory some as well
  int64_t prefix_file_bytes = 0;    // of these
  int64_t prefix_files_lost = 0;    // that could not be written, or read again, so far

  // What it has been given, which does not change:
  int64_t cache_tokens = 0;  // that requests as long as the context may hold at a time, in both memories
  int64_t cut_tokens = 0;    // what is kept of short prompts ends at multiples of it; 0: nothing is kept
  int64_t prefix_limit_bytes = 0;  // most that may be kept in memory (ServiceOptions::prefix_cache_bytes),
  int64_t prefix_file_limit_bytes = 0;  // and in files; 0: there is no folder

  DurationHistogram first_token;     // seconds from submission to the first token
  DurationHistogram between_tokens;  // seconds between one token of an answer and the next
  // Tokens of each turn that had any: one for each answer in its decode step, and those of prompts that were
  // read, of which one layer's are its share of all layers. What was found of prompts is not among them.
  TokenHistogram turn_tokens;

  EngineMemory memory;  // of the whole engine, now
  // Of all steps: what was attended, hit rate, bytes over the link; at most a tenth of a second old, and of
  // all of them once no request is left.
  SessionStatistics attention;
};

// What a service keeps of a prompt.
struct KeptPrompt {
  std::string id = {};       // 32 characters; another service that finds its file calls it the same
  int64_t tokens = 0;        // the first of a prompt
  std::string where = {};    // "device", "host", or "disk" where its file is all that there is
  int64_t memory_bytes = 0;  // in memory, beside what it has in common with others that are kept
  int64_t file_bytes = 0;    // of its file; 0: none
  double unused_s = 0;       // seconds since a request began with it, or it was found there at the start
  bool is_pinned = false;    // leaves memory after all that are not, and its file stays
};

// What may be done with it.
enum class KeptAction : uint8_t {
  pin,      // others give way first, and its file stays; requests still go before it. Not kept in the file
  unpin,    // as it was before
  save,     // its file is written next, with those of what it begins with, and stays
  restore,  // its file is read next, so that no request has to wait for it
  drop      // let go at once, with all that begin with it; requests that run keep what they share
};

// Serves one engine, which must outlive it and is its own while it lives: others may use the engine's texts
// (tokenize, detokenize, chat_prompt, streaming_detokenizer, is_eos) and facts (model, resolve, footprint,
// memory). Destroying it cancels what is left; their streams then throw Interrupted.
class Service {
 public:
  virtual ~Service() = default;

  // Takes a request. Throws InvalidInput for an empty prompt, text and ids together, ids outside of the
  // vocabulary, a prompt that leaves no room for an answer in the context, sampling out of range; OutOfMemory
  // (with both numbers) for what could not fit even alone; Busy when max_waiting requests wait; DeviceFailure
  // when the device has failed. Others notice nothing of a request that is refused.
  virtual std::unique_ptr<Stream> submit(ServiceRequest request) = 0;
  // The same for several answers to one request, from 1: its prompt is read once, and what is held of it
  // takes memory once, as far as all of them fit together. The i-th is what the request with a seed that is
  // larger by i would be answered. Throws InvalidInput for fewer; where it throws nothing was taken.
  virtual std::vector<std::unique_ptr<Stream>> submit_several(ServiceRequest request, int64_t answers) = 0;
  // What is kept of prompts of one cache_salt (ServiceRequest), the latest used first. Waits for the step
  // that runs; not for callbacks, as the next: throws InvalidInput there.
  [[nodiscard]] virtual std::vector<KeptPrompt> kept_prompts(const std::string& cache_salt) = 0;
  // Does that with one of them, and says what has become of it: of what was dropped, what it was. Saving and
  // restoring go on after it has returned. Nothing where none is kept under that id and salt. Throws
  // InvalidInput for save and restore without a folder (ServiceOptions::prefix_cache_dir).
  virtual std::optional<KeptPrompt> change_kept_prompt(const std::string& cache_salt, const std::string& id,
                                                       KeptAction action) = 0;
  // Now, and since it began.
  [[nodiscard]] virtual ServiceStatistics statistics() const = 0;
  // Waits until no request is left.
  virtual void wait_idle() = 0;
};

}  // namespace shadowkv
