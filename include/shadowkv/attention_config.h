// How attention is done: every knob of every method, once, with unit and default. Presets are values of this
// struct; nothing else in the program decides policy.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shadowkv {

// How a sequence is attended.
enum class Method : uint8_t {
  full,    // exactly, over all keys and values
  shadow,  // over few chunks a step, found by an index over low-rank keys
  quest    // over few chunks a step of whole keys, found by bounds of each chunk's keys
};
// What finds the chunks that a query needs.
enum class IndexKind : uint8_t {
  sketch,    // sign bits of every key
  landmarks  // the mean of each chunk's keys
};
// Type of what is kept of keys and values.
enum class StorageType : uint8_t {
  automatic,  // as suits the field it is the value of
  float32,    // 4 bytes a number
  bfloat16,   // 2 bytes a number
  int8        // 1 byte a number, with one scale a row
};
// Where values lie.
enum class Placement : uint8_t {
  spill,  // on the device while there is room
  host    // in host memory always
};

// Policy of one sequence; section by section what is attended, what is kept, and how a step is cut.
struct AttentionConfig {
  // Exact attention; or few chunks a step, of low-rank keys (shadow) or of whole keys that stay on the device
  // (quest).
  Method method = Method::shadow;

  // Sequences shorter than this many tokens keep plain keys and values and are attended exactly (but for
  // full, which always does).
  int64_t exact_below = 2048;
  // The first layers that are attended exactly, whatever the length, over keys and values in the compute type
  // on the device. All of them at most.
  int64_t dense_layers = 0;

  // What decides which chunks a query needs: sign bits of every key, or the mean of each chunk's keys (shadow
  // only; so are sketch_bits, rank, factors, landmarks, outlier_chunks and segments).
  IndexKind index = IndexKind::sketch;
  // Bits a key number in the sketch: 1 or 2; 0 takes 1 for head_dim >= 128 and 2 below.
  int64_t sketch_bits = 0;
  // Tokens a chunk, the unit of selection and transfer: 1 to 16.
  int64_t chunk_size = 4;
  // Tokens chosen a step and KV head. Below the chunk size is an error; over the context means all of it.
  int64_t sparse_budget = 512;
  // When not 0, the budget is for every so many tokens of the sequence (begun ones count whole).
  int64_t sparse_budget_per = 0;
  // When not 0, the budget is this share (0 to 1] of the sequence instead, in whole chunks, at least one.
  double sparse_budget_share = 0.0;
  // Candidates a chosen chunk: that many times the budget are taken by the index, their keys rebuilt, scored
  // exactly, and the best kept. 1 trusts the index.
  double rerank = 2.0;

  // Numbers of a left factor; 0 takes 5/16 of the width (KV heads x head_dim), at least 160, at most the
  // width.
  int64_t rank = 0;
  // Type of the left factors; automatic: int8.
  StorageType factors = StorageType::int8;
  // Type of the stored values; automatic: int8 under shadow, else the compute type. full stores keys so too.
  StorageType values = StorageType::automatic;
  // Type of the landmarks; automatic: the compute type.
  StorageType landmarks = StorageType::automatic;

  // Chunks per KV head and segment kept whole and always attended, outside the budget: those whose mean
  // describes them worst. The first chunk is always kept.
  int64_t outlier_chunks = 0;
  // Latest tokens kept whole and always attended, outside the budget.
  int64_t local_window = 32;
  // Slots of the cache of recently used chunks, in selections (1 holds one step's choice).
  double slot_selections = 4.0;

  // Tokens that share one basis, a multiple of 512; 0: one segment a prompt.
  int64_t segment_tokens = 16384;
  // Tokens that a prompt must bring into a segment to give it a basis of its own.
  int64_t segment_min_tokens = 2048;

  // Parts that a step's batch is cut into, so that one computes while the values of another travel; 0: as
  // many as suit the batch and the device. Changes time, never a result.
  int64_t step_parts = 0;

  // Parts of a step's batch that go through all layers by themselves, so that one computes while the values
  // of another travel, at the price of reading the weights once each: 1, 2, or 0: as suits. Changes time;
  // results at most as another batch does.
  int64_t micro_batches = 0;

  // Where values lie.
  Placement placement = Placement::spill;
};

// "default", "paper" (section 5.1 of the ShadowKV paper), "full", or "quest" (arXiv 2406.10774); throws
// InvalidInput listing the known.
[[nodiscard]] AttentionConfig preset(std::string_view name);
// What preset() takes.
[[nodiscard]] std::vector<std::string> preset_names();

// One knob as text, for command lines, configuration files and reports.
struct AttentionOption {
  std::string name;   // "sparse-budget"
  std::string unit;   // "TOKENS", or what kind of word it takes: "NAME", "TYPE"
  std::string help;   // one line
  std::string value;  // as set in the config it was listed from
};
// Every knob with its value in `config`.
[[nodiscard]] std::vector<AttentionOption> list_options(const AttentionConfig& config);
// Throws InvalidInput for an unknown name (suggesting the nearest) or a value that does not parse.
void set_option(AttentionConfig& config, std::string_view name, std::string_view value);
// Starts from a preset and applies "name=value" items: "paper", "default:rank=160,chunk-size=8". Throws as
// preset() and set_option() do.
[[nodiscard]] AttentionConfig parse_attention(std::string_view text);

}  // namespace shadowkv
