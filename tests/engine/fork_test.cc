// Forks: sequences that share what they hold go on as though each were alone, to the bit, and what they share
// takes memory once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>

#include "engine/engines.h"
#include "engine/requests.h"
#include "engine/session.h"
#include "engine/storage_cases.h"
#include "formats/temporary_file.h"
#include "support/sanitizer.h"

namespace shadowkv::testing {
namespace {

using ::testing::HasSubstr;
using Rows = std::vector<std::vector<float>>;

constexpr int64_t kRoom = 4096;

std::vector<float> step(Session& session, SequenceId id, int32_t token, int64_t method = 0) {
  const SequenceToken next{id, token};
  return session.decode(method, {&next, 1});
}

Rows steps(Session& session, SequenceId id, int64_t count, uint32_t seed, int64_t method = 0) {
  Rows rows;
  for (const int32_t token : random_ids(count, seed)) rows.push_back(step(session, id, token, method));
  return rows;
}

class Forks : public ::testing::TestWithParam<StorageCase> {
 protected:
  // Holds a prompt and what was generated behind it.
  static SequenceId begun(Session& session, int64_t prompt) {
    const SequenceId id = session.add(kRoom);
    (void)session.prefill(id, random_ids(prompt));
    (void)steps(session, id, 37, 2);
    return id;
  }
  // What a sequence that was never forked says to steps, a prompt, and steps again.
  static Rows alone(Session& session, SequenceId id, uint32_t seed) {
    Rows rows = steps(session, id, 30, seed);
    rows.push_back(session.prefill(id, random_ids(120, seed + 1)));
    for (auto& row : steps(session, id, 10, seed + 2)) rows.push_back(std::move(row));
    return rows;
  }

  // The same of two at once, token by token.
  static std::pair<Rows, Rows> both(Session& session, SequenceId a, uint32_t seed_a, SequenceId b,
                                    uint32_t seed_b) {
    Rows of_a, of_b;
    const auto take_steps = [&](int64_t count, uint32_t more) {
      const auto ids_a = random_ids(count, seed_a + more), ids_b = random_ids(count, seed_b + more);
      for (std::size_t i = 0; i < ids_a.size(); ++i) {
        of_a.push_back(step(session, a, ids_a[i]));
        of_b.push_back(step(session, b, ids_b[i]));
      }
    };
    take_steps(30, 0);
    of_a.push_back(session.prefill(a, random_ids(120, seed_a + 1)));
    of_b.push_back(session.prefill(b, random_ids(120, seed_b + 1)));
    take_steps(10, 2);
    return {of_a, of_b};
  }

  std::unique_ptr<Engine> engine_ = engine_of(GetParam().dtype);
  std::unique_ptr<Session> session_ = engine_->open(std::vector{GetParam().config});
};

TEST_P(Forks, GoOnAsTheSameTokensWithoutThem) {
  const auto other = engine_of(GetParam().dtype);
  const auto reference = other->open(std::vector{GetParam().config});
  for (const int64_t prompt : {5, 300, 1100}) {
    const SequenceId first = begun(*reference, prompt), second = begun(*reference, prompt);
    const Rows of_first = alone(*reference, first, 3), of_second = alone(*reference, second, 30);

    const SequenceId id = begun(*session_, prompt), fork = session_->fork(id, kRoom);
    const auto [found, of_fork] = both(*session_, id, 3, fork, 30);
    EXPECT_EQ(found, of_first) << "a prompt of " << prompt;
    EXPECT_EQ(of_fork, of_second) << "a prompt of " << prompt;

    const SequenceId again = begun(*session_, prompt), later = session_->fork(again, kRoom);
    session_->remove(again);
    (void)begun(*session_, 200);  // takes the memory of what went
    EXPECT_EQ(alone(*session_, later, 30), of_second) << "the first is gone; a prompt of " << prompt;
  }
}

TEST_P(Forks, StandInOneStep) {
  const SequenceId id = begun(*session_, 700), fork = session_->fork(id, kRoom);
  const SequenceId third = session_->fork(fork, kRoom);
  const auto other = engine_of(GetParam().dtype);
  const auto reference = other->open(std::vector{GetParam().config});
  const SequenceId alone = begun(*reference, 700);
  const std::vector<float> expected = step(*reference, alone, 7);
  const std::array<SequenceToken, 3> batch = {{{id, 7}, {fork, 7}, {third, 7}}};
  const std::vector<float> rows = session_->decode(0, batch);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(row_of(rows, i, expected.size()), expected) << i;
}

TEST_P(Forks, TakeWhatTheySayAndGiveAllBack) {
  (void)session_->prefill(session_->add(100), random_ids(90));  // tables and scratch
  const SequenceId id = begun(*session_, 1100);
  const int64_t one = held_by_requests(*engine_);
  const SequenceId fork = session_->fork(id, 1600);
  const int64_t both = held_by_requests(*engine_);
  const Footprint most =
      static_cast<ModelSession&>(*session_).fork_until({.prompt_tokens = 1137, .max_tokens = 1600}, 1137);
  EXPECT_LE(both - one, most.device + most.pinned_host + most.either);
  const auto counted = session_->statistics(0).held_bytes;
  EXPECT_EQ(counted[0] + counted[1], both) << "what is shared counts once";
  session_->remove(id);
  EXPECT_EQ(held_by_requests(*engine_) - (both - one), one - (both - one)) << "the same, alone";
  (void)steps(*session_, fork, 20, 3);
  session_->remove(fork);
  session_->remove(0);
  EXPECT_EQ(held_by_requests(*engine_), 0);
}

INSTANTIATE_TEST_SUITE_P(Configurations, Forks, ::testing::ValuesIn(storage_cases()), name_of_case);

TEST(ForkedSessions, ForkUnderEveryMethod) {
  const std::vector<AttentionConfig> methods = {full_attention(), small_shadow()};
  const auto engine = small_engine();
  const auto session = engine->open(methods), reference = engine->open(methods);
  const auto begun = [](Session& of) {
    const SequenceId id = of.add(900);
    (void)of.prefill(id, random_ids(600));
    (void)steps(of, id, 20, 2, 1);  // one of them goes ahead
    return id;
  };
  const SequenceId alone = begun(*reference), id = begun(*session);
  const SequenceId fork = session->fork(id, 900);
  for (const int64_t method : {0, 1}) {
    const Rows expected = steps(*reference, alone, 30, 3, method);
    EXPECT_EQ(steps(*session, fork, 30, 3, method), expected);
    EXPECT_EQ(steps(*session, id, 30, 3, method), expected);
  }
}

// Made-up state of more than a run of values, which is the largest piece that is shared.
TEST(ForkedSessions, ShareRunsOfValues) {
  EngineOptions options;
  options.shape = "tiny";
  options.threads = 2;
  const auto engine = Engine::load(options);
  for (const Placement placement : {Placement::spill, Placement::host}) {
    AttentionConfig config = small_shadow();
    config.placement = placement;
    const auto session = engine->open(std::vector{config});
    const auto filled = [&] {
      const SequenceId id = session->add(9000);
      session->fill(id, 8300, 5);
      return id;
    };
    const SequenceId alone = filled();
    const Rows expected = steps(*session, alone, 3, 9);
    session->remove(alone);
    const SequenceId id = filled();
    const int64_t one = held_by_requests(*engine);
    const SequenceId fork = session->fork(id, 9000);
    EXPECT_LT(held_by_requests(*engine) - one, one / 4);
    (void)steps(*session, id, 3, 4);
    EXPECT_EQ(steps(*session, fork, 3, 9), expected);
  }
}

template <typename Error>
std::string refusal(Session& session, SequenceId id, int64_t room) {
  try {
    (void)session.fork(id, room);
  } catch (const Error& error) {
    return error.what();
  }
  return "taken";
}

TEST(ForkedSessions, RefuseWhatCannotBe) {
  const auto engine = small_engine();
  const auto session = engine->open(std::vector{small_shadow()});
  const SequenceId empty = session->add(100), id = session->add(400);
  (void)session->prefill(id, random_ids(300));
  EXPECT_THAT(refusal<InvalidInput>(*session, empty, 100), HasSubstr("holds nothing"));
  EXPECT_THAT(refusal<InvalidInput>(*session, 99, 100), HasSubstr("unknown"));
  EXPECT_THAT(refusal<InvalidInput>(*session, id, 299), HasSubstr("holds 300 tokens"));
  EXPECT_THAT(refusal<InvalidInput>(*session, id, 5000), HasSubstr("context"));
  EXPECT_EQ(refusal<InvalidInput>(*session, id, 300), "taken");
}

TEST(ForkedSessions, WithoutRoomLeaveWhatIsThere) {
  const auto begun = [](Session& session) {
    const SequenceId id = session.add(1400);
    (void)session.prefill(id, random_ids(1100));
    (void)steps(session, id, 3, 2);
    return id;
  };
  EngineOptions options = small_engine_options();
  const auto probe = Engine::load(options);
  const auto probed = probe->open(std::vector{small_shadow()});
  const SequenceId of_probe = begun(*probed);
  options.device_bytes = probe->memory().peak[0];
  options.host_bytes = 1000;  // for what steps say, and no values
  const auto engine = Engine::load(options);
  const auto session = engine->open(std::vector{small_shadow()});
  const SequenceId id = begun(*session);
  std::vector<SequenceId> forks;
  EXPECT_THROW(while (forks.size() < 1000) forks.push_back(session->fork(id, 1400)), OutOfMemory);
  EXPECT_GT(forks.size(), 0u);
  for (const SequenceId fork : forks) session->remove(fork);
  EXPECT_EQ(held_by_requests(*engine), held_by_requests(*probe));
  EXPECT_EQ(steps(*session, id, 9, 3), steps(*probed, of_probe, 9, 3));
}

// ---- histories --------------------------------------------------------------------------------------------

// Short histories of a session, by seed, beside a reference that never forks, pauses or saves: there a branch
// is a sequence of its own that was told all that the branch was. SHADOWKV_FORK_HISTORIES says how many.
constexpr int kHistories = kIsSanitized ? 60 : 2000;
constexpr std::size_t kMostBranches = 6;

class ForkHistories : public ::testing::Test {
 protected:
  struct Told {
    bool is_prompt = false;
    bool is_made_up = false;
    int64_t tokens = 1;
    uint32_t seed = 1;
  };
  struct Branch {
    SequenceId id = 0;
    SequenceId reference = 0;
    std::vector<Told> told;
    int64_t held = 0;
    bool is_paused = false;
  };
  struct Side {
    std::unique_ptr<Engine> engine;
    std::unique_ptr<Session> session;
  };

  void open(const StorageCase& storage) {
    for (Side* side : {&forked_, &reference_}) {
      side->session.reset();
      side->engine = engine_of(storage.dtype);
      side->session = side->engine->open(std::vector{storage.config});
    }
  }

  void run(uint32_t seed) {
    random_.seed(seed);
    branches_.clear();
    begin();
    for (int64_t left = 4 + below(10); left > 0 && !HasFailure(); --left) act();
    while (!branches_.empty() && !HasFailure()) {
      Branch& any = pick();
      wake(any);
      tell(any, {.seed = next_seed()});  // the last word of each
      remove(any);
    }
    ASSERT_EQ(held_by_requests(*forked_.engine), 0) << "history " << seed;
  }

  int64_t forks_ = 0, loads_ = 0, pauses_ = 0;

 private:
  int64_t below(int64_t bound) { return std::uniform_int_distribution<int64_t>(0, bound - 1)(random_); }
  uint32_t next_seed() { return static_cast<uint32_t>(below(1 << 20)) + 1; }
  Branch& pick() { return branches_[static_cast<std::size_t>(below(std::ssize(branches_)))]; }
  ModelSession& session() { return static_cast<ModelSession&>(*forked_.session); }

  static std::vector<float> say(Session& to, SequenceId id, const Told& told) {
    if (told.is_made_up) {
      to.fill(id, told.tokens, told.seed);
      return {};
    }
    const std::vector<int32_t> ids = random_ids(told.tokens, told.seed);
    return told.is_prompt ? to.prefill(id, ids) : step(to, id, ids[0]);
  }

  void tell(Branch& branch, const Told& told) {
    const std::vector<float> expected = say(*reference_.session, branch.reference, told);
    EXPECT_EQ(say(session(), branch.id, told), expected);
    branch.told.push_back(told);
    branch.held += told.tokens;
  }

  void begin() {
    Branch branch{.id = session().add(kRoom), .reference = reference_.session->add(kRoom), .told = {}};
    const bool is_made_up = below(4) != 0;
    tell(branch, {.is_prompt = true,
                  .is_made_up = is_made_up,
                  .tokens = 1 + below(is_made_up ? 1500 : 80),
                  .seed = next_seed()});
    branches_.push_back(std::move(branch));
  }

  void fork(Branch& from) {
    if (branches_.size() == kMostBranches) return;
    Branch branch = from;
    branch.id = session().fork(from.id, kRoom);
    branch.reference = reference_.session->add(kRoom);
    for (const Told& told : branch.told) (void)say(*reference_.session, branch.reference, told);
    branches_.push_back(std::move(branch));
    ++forks_;
  }

  void wake(Branch& branch) {
    if (branch.is_paused) session().resume(branch.id);
    branch.is_paused = false;
  }

  void remove(Branch& branch) {
    session().remove(branch.id);
    reference_.session->remove(branch.reference);
    branches_.erase(branches_.begin() + (&branch - branches_.data()));
  }

  // What it was is gone, and it shares nothing any more.
  void save_and_load(Branch& branch) {
    const auto path = folder_.path() / "state";
    const std::vector<int32_t> ids(static_cast<std::size_t>(branch.held), 3);
    session().save_state(branch.id, path, {.ids = ids, .held = branch.held, .note = {}});
    session().remove(branch.id);
    branch.id = session().add(kRoom);
    (void)session().load_state(branch.id, path);
    ++loads_;
  }

  void act() {
    if (branches_.empty()) return begin();
    Branch& branch = pick();
    const int64_t action = below(12);
    wake(branch);
    if (action == 0) {
      session().pause(branch.id);
      branch.is_paused = true;
      ++pauses_;
    } else if (action == 1) {
      remove(branch);
    } else if (action == 2) {
      save_and_load(branch);
    } else if (action == 3) {
      tell(branch, {.is_prompt = true, .tokens = 1 + below(60), .seed = next_seed()});
    } else if (action < 8) {
      fork(branch);
    } else {
      for (int64_t count = 1 + below(3); count > 0; --count) tell(branch, {.seed = next_seed()});
    }
  }

  Side forked_, reference_;
  std::vector<Branch> branches_;
  TemporaryFolder folder_;
  std::mt19937 random_;
};

TEST_F(ForkHistories, SayWhatSequencesWithoutForksSayAndHoldNothingAfterwards) {
  const char* asked = std::getenv("SHADOWKV_FORK_HISTORIES");
  const int count = asked ? std::atoi(asked) : kHistories;
  const auto& cases = storage_cases();
  const auto each = static_cast<int>(cases.size());
  for (int kind = 0; kind < each && !HasFailure(); ++kind) {
    const StorageCase& storage = cases[static_cast<std::size_t>(kind)];
    SCOPED_TRACE(storage.name);
    open(storage);
    for (int seed = kind; seed < count && !HasFailure(); seed += each) run(static_cast<uint32_t>(seed));
  }
  std::printf("%d histories: %ld forks, %ld loads, %ld pauses\n", count, forks_, loads_, pauses_);
  EXPECT_GT(forks_, count / 2);
  EXPECT_GT(loads_, 0);
  EXPECT_GT(pauses_, 0);
}

}  // namespace
}  // namespace shadowkv::testing
