// The service's thread: takes requests in, does what the scheduler says, and lets decode steps and units of
// reading follow one another. Everything below the inbox belongs to that thread alone.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/device.h"
#include "engine/answer.h"
#include "engine/constraint_cache.h"
#include "engine/pace.h"
#include "engine/prefix_cache.h"
#include "engine/prefix_disk.h"
#include "engine/reading_order.h"
#include "engine/scheduler.h"
#include "engine/session.h"
#include "model/config.h"
#include "model/transformer.h"
#include "shadowkv/service.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv {

// What a service is made of; all of it outlives the service.
struct ServiceParts {
  const ModelConfig& model;
  DType compute;
  Transformer& transformer;
  Device& device;
  std::shared_ptr<const Tokenizer> tokenizer;  // may be null
  std::shared_ptr<ConstraintCache> constraints;
  std::function<EngineMemory()> memory;
};

class ModelService final : public Service {
 public:
  ModelService(ServiceParts parts, const ServiceOptions& options);
  ~ModelService() override;
  ModelService(const ModelService&) = delete;
  ModelService& operator=(const ModelService&) = delete;

  std::unique_ptr<Stream> submit(ServiceRequest request) override;
  std::vector<std::unique_ptr<Stream>> submit_several(ServiceRequest request, int64_t answers) override;
  std::vector<KeptPrompt> kept_prompts(const std::string& cache_salt) override;
  std::optional<KeptPrompt> change_kept_prompt(const std::string& cache_salt, const std::string& id,
                                               KeptAction action) override;
  [[nodiscard]] ServiceStatistics statistics() const override;
  void wait_idle() override;

 private:
  using Clock = std::chrono::steady_clock;
  enum class Stage : uint8_t { arrived, waiting, reading, running, paused };
  // How a sequence comes to hold its prompt: whole, or what was found first and then the rest. One that is
  // dropped comes to it the same way again.
  struct PromptReading {
    std::vector<int64_t> parts = {};  // where each part that is read by itself ends; empty until it begins
    std::size_t part = 0;             // that is being read
    PrefixPlace from = {};            // that it shares memory with
    bool loads = false;               // `from` is being brought from the disk; nothing is read before
    int64_t disk_tokens = 0;          // of those found, in files
    bool is_new = false;              // what it found has not been counted
    // That are to be kept of it, once it is read: with the key of the same place among the job's.
    struct Kept {
      std::size_t key = 0;
      SequenceId sequence = 0;
    };
    std::vector<Kept> kept = {};

    [[nodiscard]] int64_t first() const { return part == 0 ? 0 : parts[part - 1]; }
    [[nodiscard]] bool is_last() const { return part + 1 == parts.size(); }
  };
  // One answer. Those to one prompt stand one after the other, and are one request to the scheduler: one of
  // them reads the prompt while the others wait, then they fork, run, pause and are dropped together.
  struct Job {
    RequestId group = 0;  // the scheduler's request: the first id of those that came together
    std::vector<int32_t> prompt;
    std::shared_ptr<const std::vector<PrefixKey>> keys = {};  // of the prompt's cuts; null: nothing is kept
    PrefixDigest tenant = {};                                 // whose they are
    PromptReading reading = {};
    int64_t max_tokens = 0;  // prompt and answer
    int priority = 0;
    std::string client;
    std::function<void()> on_news;
    LayerObserver observer;
    std::shared_ptr<Answer> answer;
    Sampler sampler;  // stands where the answer does, also while the sequence catches up
    AnswerEnds ends;
    std::optional<AnswerText> text;  // where a text may end it
    Stage stage = Stage::arrived;
    bool has_begun = false;
    SequenceId sequence = 0;  // while it reads, runs or is paused
    // Tokens of the answer that the sequence holds: fewer than there are, by one or, while a dropped request
    // catches up, by more.
    int64_t fed = 0;
    int shortages = 0;  // times in a row that memory ended for it
    Clock::time_point submitted, last_token;
  };
  using Jobs = std::map<RequestId, Job>;
  using Item = Jobs::value_type;

  // ---- callers' threads
  [[nodiscard]] Job make_job(ServiceRequest request) const;
  [[nodiscard]] std::vector<int32_t> prompt_of(ServiceRequest& request) const;
  [[nodiscard]] Footprint state_of(const SequencePlan& plan, int64_t tokens, int64_t answers) const;
  [[nodiscard]] Footprint need_of(const SequencePlan& plan, int64_t answers) const;
  void check_fits_alone(const SequencePlan& plan) const;
  [[nodiscard]] int64_t working_bytes(int64_t prompt_tokens) const;
  [[nodiscard]] std::shared_ptr<const std::vector<PrefixKey>> keys_of(const Job& job,
                                                                      const std::string& salt) const;
  template <typename Work>
  auto on_thread(Work work);
  [[nodiscard]] int64_t most_together(const SequencePlan& plan, int64_t answers) const;

  void count_limits();

  // ---- the service's thread
  void run() noexcept;
  void turn();  // of the loop: take in, decide, step, read
  void count_turn();
  void take_in();
  void decide();
  void perform(const SchedulerAction& action);
  void begin_reading(RequestId group);
  void resume(RequestId group);
  void pause(RequestId group);
  void let_go(RequestId group);
  [[nodiscard]] bool split(RequestId group);
  template <typename Act>  // that may end the answer that it is given, and no other
  void for_each_answer(RequestId group, const Act& act);
  [[nodiscard]] int64_t answers_of(RequestId group);
  void step();
  [[nodiscard]] bool joins_step(Item& item);
  void observe_step();
  void observe(const LayerObservation& seen) noexcept;
  void took_step(Item& item, int32_t picked);
  void step_failed();
  void read();
  [[nodiscard]] Item* next_to_read();
  [[nodiscard]] bool read_unit(Item& item, std::optional<double> left, bool is_first);
  void took_slice(RequestId group, int64_t first, int64_t rows);
  void finish_reading(Item& item);
  void fork(Item& item);
  void begin_answer(Item& item, const PrefillRun& prompt);
  void begin_answers(RequestId group, const PrefillRun& prompt);
  // model_service_prefix.cc
  void find_prefix(Job& job);
  void begin_sequence(RequestId group, Job& job);
  void begin_part(Job& job);
  void begin_next_part(Job& job);
  [[nodiscard]] double work_left(const PromptReading& reading) const;
  void begin_prefixes(Job& job);
  void keep_prefixes(Job& job);
  void give_up_prefixes(Job& job) noexcept;
  [[nodiscard]] std::vector<int64_t> parts_until(const PrefixPlace& place) const;
  void fit_prefixes(const Job* beginning);
  void send_after_paused();
  void bring_back(PrefixId id);
  void move_to_host(PrefixId id);
  void begin_from_prefix(RequestId group, Job& job);
  void begin_without_prefix(RequestId group, Job& job);
  void count_found(RequestId group, Job& job, int64_t tokens);
  void count_prefixes();
  void let_prefix_go(PrefixId id);
  void leave_prefix(PrefixId id);
  void drop_prefix(PrefixId id);
  [[nodiscard]] bool drop_any_prefix();
  // model_service_disk.cc
  void open_disk();
  [[nodiscard]] bool add_file(const PrefixFile& file);
  void tell_note(const std::string& line) const noexcept;
  [[nodiscard]] PrefixBeginning beginning_of(const Prefix& prefix) const;
  [[nodiscard]] bool save_ahead();
  [[nodiscard]] bool save_now(PrefixId id);
  [[nodiscard]] bool begin_saving(PrefixId id);
  [[nodiscard]] bool give_piece(Clock::time_point until);
  [[nodiscard]] bool end_saving(Clock::time_point until);
  void saving_failed(const PrefixDisk::Saving& saved, const std::string& why);
  [[nodiscard]] bool make_file_room(PrefixId id, int64_t bytes);
  void erase_file(PrefixId id);
  void lose_file(PrefixId id, const std::string& why);
  [[nodiscard]] bool load_unit(Item& item, std::optional<double> left, bool is_first);
  [[nodiscard]] std::optional<PrefixId> first_to_load(PrefixId id) const;
  [[nodiscard]] int64_t tokens_on_disk(const PrefixPlace& place) const;
  [[nodiscard]] std::vector<int32_t> shared_ids(const Job& job, PrefixId id) const;
  [[nodiscard]] bool begin_loading(PrefixId id, std::vector<int32_t> expected, std::optional<int64_t> table);
  void begin_pieces(PrefixId id, std::vector<int32_t> expected, std::unique_ptr<StateReader> file);
  [[nodiscard]] bool load_ahead();
  void load_piece(int64_t blocks);
  void finish_loading();
  void give_up_loading();
  // model_service_kept.cc
  [[nodiscard]] KeptPrompt describe_kept(PrefixId id) const;
  void change_kept(PrefixId id, KeptAction action);
  void forget_prefix(PrefixId id);
  void hand_over(Item& item) noexcept;
  void reading_failed(Item& item);
  void deliver(Item& item, int32_t token);
  [[nodiscard]] static std::optional<FinishReason> reason_to_end(Job& job, int32_t token);
  void fail(Item& item, const std::exception_ptr& error) noexcept;  // null: it was cancelled
  void fail_all(const std::exception_ptr& error) noexcept;
  void break_off(const std::exception_ptr& error) noexcept;
  template <typename Say>
  void end(Item& item, const Say& say, int64_t& counted) noexcept;
  void forget(Item& item) noexcept;
  static void tell(Job& job) noexcept;
  void publish() noexcept;
  void read_attention();
  void read_last_attention() noexcept;
  [[nodiscard]] Room room() const;
  [[nodiscard]] Item& first_of(RequestId group);
  [[nodiscard]] Item& reader_of(RequestId group);
  [[nodiscard]] OutOfMemory too_large(int64_t max_tokens, const Footprint& need, const Room& room) const;
  [[nodiscard]] static double seconds_between(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  }
  // Books the time since the last call under `seconds`.
  void book(double& seconds);

  ServiceParts parts_;
  ServiceOptions options_;
  ModelSession session_;
  Scheduler scheduler_;
  UnitWork work_;
  Pace pace_;
  ReadingOrder order_;
  std::optional<PrefixCache> prefixes_;
  std::string identity_;              // that their keys begin with
  std::unique_ptr<PrefixDisk> disk_;  // null: prefixes are in memory alone
  bool has_gone_ = false;             // a sequence, since it was looked what paused ones shared with it
  Jobs jobs_;
  std::vector<Item*> batch_;                // of the step
  std::vector<SequenceToken> step_tokens_;  // likewise
  std::vector<Sampler*> step_samplers_;     // likewise
  Item* reading_ = nullptr;                 // whose layer has begun, or was the last to end
  bool is_observed_ = false;                // whether somebody sees the layers of steps
  int step_shortages_ = 0;                  // steps in a row that memory ended for
  Clock::time_point booked_until_;
  Clock::time_point attention_read_;      // when its statistics were read
  ServiceStatistics now_;                 // without memory
  StepGraphs::Counts recordings_before_;  // of the engine, when the service began
  int64_t turn_tokens_ = 0;               // of this turn: in its step,
  int64_t turn_rows_ = 0;                 // and read, a layer's by themselves
  int64_t ended_ = 0;                     // requests since it was published

  std::shared_ptr<Bell> bell_;
  std::atomic<int64_t> waiting_{0};  // taken and never begun
  std::atomic<bool> stops_{false};

  mutable std::mutex mutex_;
  std::condition_variable idle_;
  Jobs inbox_;                                // guarded by mutex_, as all below
  std::vector<std::function<void()>> asked_;  // for the service's thread to do between turns
  RequestId next_id_ = 0;
  int64_t live_ = 0;           // requests that have not ended
  std::exception_ptr broken_;  // what the device failed with
  ServiceStatistics published_;

  std::thread thread_;  // the last member: begins when all else is there
};

template <typename Act>
void ModelService::for_each_answer(RequestId group, const Act& act) {
  for (auto next = jobs_.lower_bound(group); next != jobs_.end() && next->second.group == group;) {
    act(*next++);
  }
}

}  // namespace shadowkv
