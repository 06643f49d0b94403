// Who runs, on two memory budgets: policy alone. It knows requests by their sizes, keeps a ledger of what is
// set aside for each, and says one action after the other; who carries them out touches device and clock.
//
//     add -> waiting -> reading -> running -> remove
//               ^----------drop-------/ \--pause--> paused --resume--> running
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "attention/attention.h"

namespace shadowkv {

using RequestId = int64_t;

// Bytes that requests may take in all, by tier.
struct Room {
  int64_t device = 0;
  int64_t host = 0;
};

// Whether so much fits; `either` takes what the device has left, then host memory.
[[nodiscard]] bool fits(const Footprint& sum, const Room& room);

// What a request is to the scheduler. All of its answers run, wait and give way together.
struct RequestSize {
  int priority = 0;         // higher ones go before lower ones
  std::string client = {};  // those of one priority share by what they were served
  int64_t prompt_tokens = 0;
  int64_t max_tokens = 0;     // prompt and answer
  int64_t working_bytes = 0;  // of the device, while its prompt is read
  int64_t answers = 1;        // which have in common what is held of the prompt
};

struct SchedulerLimits {
  int64_t max_running = 64;  // sequences in a step, those that are reading or to join it included
  int64_t max_reading = 4;   // prompts that have begun to be read
  // Tokens that are set aside beyond those held: fewer let more in, and pause them more often.
  int64_t growth_tokens = 512;
};

struct SchedulerAction {
  enum class Kind : uint8_t {
    none,    // nothing to change: take a step
    read,    // begin with the prompt
    resume,  // bring a paused one back
    pause,   // move its state into host memory
    drop,    // let its state go; it waits again, and what it has answered is kept
    fail     // not even alone does it fit
  };
  Kind kind = Kind::none;
  RequestId id = 0;
};

struct SchedulerCounts {
  int64_t waiting = 0;
  int64_t reading = 0;
  int64_t running = 0;
  int64_t paused = 0;
};

class Scheduler {
 public:
  // Bytes of so many answers to a prompt until each holds so many tokens (Attention::peak_until, fork_until).
  using Sizing = std::function<Footprint(const SequencePlan& plan, int64_t tokens, int64_t answers)>;

  Scheduler(const SchedulerLimits& limits, Sizing sizing);

  // Requests of one priority and client go in the order of their ids.
  void add(RequestId id, const RequestSize& size);
  void remove(RequestId id);      // in any state; unknown ids are ignored
  void end_answer(RequestId id);  // one of several; likewise

  // What to do next; it counts as done. After an exception nothing has changed.
  // The first in line is waited for, nobody overtakes it.
  [[nodiscard]] SchedulerAction next(const Room& room);

  void finished_reading(RequestId id);           // it runs from now on
  void took_step(RequestId id, int64_t tokens);  // an answer of a running one holds so many, one more
  // Memory was short although the ledger had room: the lowest of those that hold device memory gives way.
  // None where there is but one.
  [[nodiscard]] SchedulerAction give_way(const Room& room);
  // What it was told could not be done for want of memory: the request waits until another one has left.
  void drop(RequestId id);

  [[nodiscard]] SchedulerCounts counts() const;
  // Whether another request holds memory, on the device or paused.
  [[nodiscard]] bool has_others(RequestId id) const;
  [[nodiscard]] const Footprint& set_aside() const { return sum_; }

 private:
  enum class State : uint8_t { waiting, reading, running, paused };
  struct Entry {
    RequestSize size;
    State state = State::waiting;
    bool has_begun = false;   // was dropped: goes before those that never ran
    int64_t tokens = 0;       // held by the longest; from the start of reading on those of the prompt
    int64_t horizon = 0;      // tokens that are set aside for
    Footprint set_aside;      // counted in sum_
    int64_t stalled_at = -1;  // departures_ when memory was last short for it; -1: never
  };
  using Entries = std::map<RequestId, Entry>;
  using Item = Entries::value_type;

  [[nodiscard]] static bool is_active(const Entry& entry);
  [[nodiscard]] static bool outranks(const Item& a, const Item& b);
  [[nodiscard]] bool goes_before(const Item& a, const Item& b) const;
  template <typename Which, typename Order>
  [[nodiscard]] Item* first_of(const Which& which, const Order& order);
  [[nodiscard]] int64_t count(State state) const;    // requests
  [[nodiscard]] int64_t answers(State state) const;  // of them

  [[nodiscard]] Footprint need(const Entry& entry, int64_t tokens) const;
  [[nodiscard]] Footprint when_paused(const Entry& entry) const;
  [[nodiscard]] int64_t horizon_from(const Entry& entry, int64_t tokens) const;
  [[nodiscard]] bool would_fit(const Entry& entry, const Footprint& instead, const Room& room) const;
  void change(Entry& entry, State state, const Footprint& bytes);
  void serve(const Entry& entry, int64_t tokens);

  [[nodiscard]] SchedulerAction grow(const Room& room);
  [[nodiscard]] SchedulerAction admit(const Room& room);
  [[nodiscard]] SchedulerAction start(Item& item, const Room& room);
  [[nodiscard]] SchedulerAction make_room(Item& item, const Footprint& bytes, const Room& room,
                                          bool among_equals);
  [[nodiscard]] SchedulerAction evict(Item& victim, const Room& room);

  SchedulerLimits limits_;
  Sizing sizing_;
  Entries entries_;
  // Tokens served to each client that has requests; one that comes starts with the least of the others'.
  struct Client {
    int64_t served = 0;
    int64_t requests = 0;
  };
  std::map<std::string, Client> clients_;
  Footprint sum_;
  int64_t departures_ = 0;  // how often one gave memory back
};

}  // namespace shadowkv
