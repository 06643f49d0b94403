// Saved state: what is loaded goes on as what was saved would have.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "engine/engines.h"
#include "engine/storage_cases.h"
#include "formats/state_file.h"
#include "formats/temporary_file.h"

namespace shadowkv::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

template <typename Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const InvalidInput& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  return "taken";
}

class SavedStates : public ::testing::TestWithParam<StorageCase> {
 protected:
  // Steps of forced tokens.
  static std::vector<std::vector<float>> steps(Session& session, SequenceId id, int64_t count,
                                               uint32_t seed) {
    std::vector<std::vector<float>> rows;
    for (const int32_t token : random_ids(count, seed)) {
      const SequenceToken next{id, token};
      rows.push_back(session.decode(0, {&next, 1}));
    }
    return rows;
  }

  TemporaryFolder folder_;
  fs::path path_ = folder_.path() / "state";
};

TEST_P(SavedStates, GoOnTokenForTokenInAnotherEngine) {
  for (const int64_t prompt : {5, 300, 1100}) {
    const auto engine = engine_of(GetParam().dtype);
    const auto session = engine->open(std::vector{GetParam().config});
    const SequenceId id = session->add(1800);
    (void)session->prefill(id, random_ids(prompt));
    (void)steps(*session, id, 37, 2);
    std::vector<int32_t> ids = random_ids(prompt + 37 + 1);
    session->save_state(id, path_, {.ids = ids, .held = prompt + 37, .note = "said"});

    const auto other = engine_of(GetParam().dtype);
    const auto loaded = other->open(std::vector{GetParam().config});
    (void)loaded->prefill(loaded->add(100), random_ids(80, 9));  // takes the row of the first
    const SequenceId again = loaded->add(1800);
    const StateContents contents = loaded->load_state(again, path_);
    EXPECT_EQ(contents.ids, ids);
    EXPECT_EQ(contents.held, prompt + 37);
    EXPECT_EQ(contents.note, "said");
    EXPECT_EQ(steps(*loaded, again, 30, 3), steps(*session, id, 30, 3)) << "a prompt of " << prompt;
    EXPECT_EQ(loaded->prefill(again, random_ids(120, 4)), session->prefill(id, random_ids(120, 4)));
    EXPECT_EQ(steps(*loaded, again, 10, 5), steps(*session, id, 10, 5));
  }
}

TEST_P(SavedStates, OfTheSameTokensAreTheSameFile) {
  std::vector<std::string> files;
  for (const int64_t before : {0, 400}) {  // whose memory comes back into use
    const auto engine = engine_of(GetParam().dtype);
    const auto session = engine->open(std::vector{GetParam().config});
    if (before > 0) {
      const SequenceId other = session->add(900);
      (void)session->prefill(other, random_ids(before, 8));
      session->remove(other);
    }
    const SequenceId id = session->add(900);
    (void)session->prefill(id, random_ids(300));
    (void)steps(*session, id, 9, 2);
    session->save_state(id, path_, {.ids = random_ids(309), .held = 309, .note = ""});
    std::ifstream in(path_, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  EXPECT_TRUE(files[0] == files[1]) << "nothing of others' memory comes into it";
}

TEST_P(SavedStates, ThatAreDamagedLeaveTheSequenceEmptyAndGiveAllBack) {
  const auto engine = engine_of(GetParam().dtype);
  const auto session = engine->open(std::vector{GetParam().config});
  const SequenceId id = session->add(900), empty = session->add(900);
  (void)session->prefill(id, random_ids(300));
  session->save_state(id, path_, {.ids = random_ids(300), .held = 300, .note = ""});
  session->remove(id);
  (void)session->load_state(empty, path_);  // tables at their largest
  session->remove(empty);
  const auto before = engine->memory().held;
  const SequenceId again = session->add(900);
  std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(-1, std::ios::end);
  file.put('\x55');
  file.close();
  EXPECT_THAT(refusal([&] { (void)session->load_state(again, path_); }), HasSubstr("is damaged"));
  EXPECT_EQ(engine->memory().held, before);
  EXPECT_EQ(session->prefill(again, random_ids(300)).size(), 288u);
}

// LongRoPE from 128 tokens on. What a sequence is short by is saved with it and forked with it, and it grows
// no further than that rule reaches.
TEST(SavedShortStates, KeepTheRuleOfTheirPositions) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state";
  EngineOptions options = small_engine_options();
  options.model = std::string(SHADOWKV_TEST_DATA) + "/golden/phi3_heads96/hf";
  const auto engine = Engine::load(options);
  for (const AttentionConfig& config : {full_attention(), small_shadow()}) {
    const auto session = engine->open(std::vector{config});
    const SequenceId id = session->add(100), longer = session->add(200);
    const std::vector<float> logits = session->prefill(id, random_ids(60));
    EXPECT_NE(session->prefill(longer, random_ids(60)), logits);
    session->save_state(id, path, {.ids = random_ids(60), .held = 60, .note = ""});
    const SequenceId again = session->add(200), forked = session->fork(id, 128);
    EXPECT_EQ(session->load_state(again, path).max_tokens, 128);
    for (const int32_t token : random_ids(20, 7)) {
      const std::vector<SequenceToken> next = {{id, token}, {again, token}, {forked, token}, {longer, token}};
      const std::vector<float> all = session->decode(0, next);
      const std::vector<float> wanted = row_of(all, 0, 288);
      EXPECT_EQ(row_of(all, 1, 288), wanted);
      EXPECT_EQ(row_of(all, 2, 288), wanted);
      EXPECT_NE(row_of(all, 3, 288), wanted);
    }
    EXPECT_THAT(refusal([&] { (void)session->fork(again, 129); }), HasSubstr("at most 128 tokens"));
    EXPECT_THAT(refusal([&] { (void)session->prefill(again, random_ids(49)); }), HasSubstr("at most 128"));
    (void)session->fork(longer, 100);
  }
}

// Dynamic RoPE from 48 tokens on, by 30; 120 and 240 are rungs of its ladder.
TEST(SavedShortStates, AreOfTheRungThatTheirSequenceWasAddedFor) {
  const TemporaryFolder folder;
  const fs::path state = folder.path() / "state", other = folder.path() / "other";
  EngineOptions options = small_engine_options();
  options.model = std::string(SHADOWKV_TEST_DATA) + "/golden/llama_dynamic/hf";
  const auto engine = Engine::load(options);
  EXPECT_EQ(engine->model().context, 48 * 30);
  const auto session = engine->open(std::vector{full_attention()});
  const SequenceId id = session->add(100), same = session->add(120), longer = session->add(121);
  const std::vector<float> logits = session->prefill(id, random_ids(60));
  EXPECT_EQ(session->prefill(same, random_ids(60)), logits);
  EXPECT_NE(session->prefill(longer, random_ids(60)), logits);
  (void)session->fork(id, 120);
  EXPECT_THAT(refusal([&] { (void)session->fork(id, 121); }), HasSubstr("at most 120 tokens"));
  session->save_state(id, state, {.ids = random_ids(60), .held = 60, .note = ""});
  EXPECT_EQ(session->load_state(session->add(200), state).max_tokens, 120);

  fs::copy(options.model, other);
  std::ifstream file(other / "config.json");
  std::string config{std::istreambuf_iterator<char>(file), {}};
  config.replace(config.find("\"factor\": 30"), 12, "\"factor\": 29");
  std::ofstream(other / "config.json") << config;
  options.model = other.string();
  const auto changed = Engine::load(options);
  const auto turned = changed->open(std::vector{full_attention()});
  EXPECT_THAT(refusal([&] { (void)turned->load_state(turned->add(200), state); }),
              HasSubstr("weights and positions"));
}

INSTANTIATE_TEST_SUITE_P(Configurations, SavedStates, ::testing::ValuesIn(storage_cases()), name_of_case);

class OneState : public ::testing::Test {
 protected:
  void SetUp() override {
    const SequenceId id = session_->add(400);
    (void)session_->prefill(id, random_ids(300));
    session_->save_state(id, path_, {.ids = random_ids(300), .held = 300, .note = ""});
  }
  std::string refused_by(Engine& engine, const AttentionConfig& config, int64_t room = 400) {
    const auto session = engine.open(std::vector{config});
    const SequenceId id = session->add(room);
    return refusal([&] { (void)session->load_state(id, path_); });
  }

  TemporaryFolder folder_;
  fs::path path_ = folder_.path() / "state";
  std::unique_ptr<Engine> engine_ = small_engine();
  std::unique_ptr<Session> session_ = engine_->open(std::vector{small_shadow()});
};

TEST_F(OneState, IsRefusedElsewhereWithALineThatNamesBoth) {
  EXPECT_THAT(refused_by(*engine_of("bfloat16"), small_shadow()), HasSubstr("with weights"));
  AttentionConfig other = small_shadow();
  other.sparse_budget = 64;
  const std::string message = refused_by(*engine_, other);
  EXPECT_THAT(message, HasSubstr("sparse-budget=32"));
  EXPECT_THAT(message, HasSubstr("sparse-budget=64"));
  EXPECT_EQ(message.find("rank"), std::string::npos) << "only what differs: " << message;
  EXPECT_THAT(refused_by(*engine_, full_attention()), HasSubstr("method=full"));
  EXPECT_THAT(refused_by(*engine_, small_shadow(), 299), HasSubstr("at most 299"));
  EngineOptions random;
  random.shape = "tiny";
  random.dtype = "float32";
  EXPECT_THAT(refused_by(*Engine::load(random), small_shadow()), HasSubstr("is a state of the model"));
}

TEST_F(OneState, IsTakenWhereOnlyTimeDiffers) {
  AttentionConfig other = small_shadow();
  other.slot_selections = 1.5;
  other.placement = Placement::host;
  other.step_parts = 3;
  EXPECT_EQ(refused_by(*engine_, other), "taken");
  EXPECT_EQ(refused_by(*engine_, small_shadow(), 300), "taken") << "with room for itself alone";
}

TEST_F(OneState, NeedsRoom) {
  const auto engine = engine_of("float32", int64_t{250} << 10);
  const auto session = engine->open(std::vector{small_shadow()});
  const SequenceId id = session->add(4000);
  const auto before = engine->memory().held;
  EXPECT_THROW((void)session->load_state(id, path_), OutOfMemory);
  EXPECT_EQ(engine->memory().held, before);
}

// Whole files whose numbers are lies: sizes are compared before anything is allocated.
TEST_F(OneState, WithNumbersThatNoSequenceHasIsRefused) {
  const StateReader reader(path_);
  ThreadPool threads(1);
  std::vector<std::byte> content(static_cast<std::size_t>(reader.content_bytes()));
  reader.read(0, content, threads);
  const fs::path lie = folder_.path() / "lie";
  const auto loads = [&](const std::function<void(StateDescription&)>& change) {
    StateDescription description = reader.description();
    change(description);
    StateWriter writer(lie, description, std::ssize(content));
    writer.write(0, content, threads);
    writer.commit();
    const auto session = engine_->open(std::vector{small_shadow()});
    const SequenceId id = session->add(400);
    const std::string message = refusal([&] { (void)session->load_state(id, lie); });
    if (message != "taken") {
      EXPECT_EQ(session->prefill(id, random_ids(9)).size(), 288u);
    }
    return message;
  };
  EXPECT_EQ(loads([](StateDescription&) {}), "taken");
  const std::size_t count = reader.description().numbers.size();
  ASSERT_EQ(count, 6u) << "form, budget, candidates, outliers, and one segment";
  for (const int64_t value : {int64_t{0}, int64_t{2}, int64_t{299}, int64_t{512}, INT64_MAX}) {
    for (const std::size_t i : {0u, 3u, 4u, 5u}) {
      if (i == 3 && value == 0) continue;
      if (i == 4 && value == 0) continue;
      if (i == 5 && (value == 2 || value == 299)) continue;  // an end that may be
      EXPECT_NE(loads([&](StateDescription& d) { d.numbers[i] = value; }), "taken") << i << " as " << value;
    }
    if (value == 0) continue;
    EXPECT_EQ(loads([&](StateDescription& d) { d.numbers[1] = value; }), "taken");
  }
  EXPECT_NE(loads([](StateDescription& d) { d.numbers[1] = 0; }), "taken");
  EXPECT_NE(loads([](StateDescription& d) { d.numbers.clear(); }), "taken");
  EXPECT_NE(loads([](StateDescription& d) { d.numbers = {1, 8, 8, 0}; }), "taken");
  EXPECT_NE(loads([](StateDescription& d) { d.numbers.push_back(512); }), "taken");
  EXPECT_NE(loads([](StateDescription& d) { d.numbers.insert(d.numbers.end(), {0, 300}); }), "taken");
  EXPECT_NE(loads([](StateDescription& d) { d.tokens = 299; }), "taken");
  EXPECT_NE(loads([](StateDescription& d) { d.tokens = 1, d.ids = 300; }), "taken");
  EXPECT_NE(loads([](StateDescription& d) { d.ids += 1; }), "taken");
  EXPECT_NE(loads([](StateDescription& d) { d.note_bytes = 1 << 20; }), "taken");
}

TEST_F(OneState, SaysWhatItIs) {
  const StateInfo info = read_state_info(path_);
  EXPECT_EQ(info.tokens, 300);
  EXPECT_EQ(info.dtype, "float32");
  EXPECT_EQ(info.model, engine_->model().name);
  EXPECT_THAT(info.attention, HasSubstr("method=shadow,"));
  EXPECT_GT(info.bytes, 300 * 4);
  EXPECT_LT(static_cast<uintmax_t>(info.bytes), fs::file_size(path_));
}

TEST_F(OneState, MisuseIsRefused) {
  const SequenceId id = session_->add(400), held = session_->add(400);
  (void)session_->prefill(held, random_ids(9));
  const StateContents nine{.ids = random_ids(9), .held = 9, .note = {}};
  EXPECT_THAT(refusal([&] { session_->save_state(id, path_, nine); }), HasSubstr("holds nothing"));
  EXPECT_THAT(refusal([&] { session_->save_state(held, path_, {}); }), HasSubstr("0 ids"));
  EXPECT_THAT(refusal([&] { (void)session_->load_state(held, path_); }), HasSubstr("holds tokens already"));
  const auto several = engine_->open(std::vector{small_shadow(), full_attention()});
  const SequenceId of_two = several->add(400);
  EXPECT_THAT(refusal([&] { (void)several->load_state(of_two, path_); }), HasSubstr("one method alone"));
  (void)several->prefill(of_two, random_ids(9));
  EXPECT_THAT(refusal([&] { several->save_state(of_two, path_, nine); }), HasSubstr("one method alone"));
}

TEST(SavedConversations, GoOnWhereTheyWere) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "state";
  for (const AttentionConfig& config : {full_attention(), small_shadow()}) {
    const auto engine = small_engine();
    const auto conversation = engine->converse(config);
    EXPECT_THAT(refusal([&] { conversation->save_state(path, ""); }), HasSubstr("nothing is in memory"));
    GenerateRequest request;
    request.prompt_ids = random_ids(200);
    request.max_new_tokens = 9;
    request.ignore_eos = true;
    (void)conversation->answer(request, {});
    EXPECT_EQ(conversation->ids().size(), 209u);
    EXPECT_EQ(conversation->held_tokens(), 208);
    conversation->save_state(path, "a note");
    request.prompt_ids = conversation->ids();
    for (const int32_t id : random_ids(40, 3)) request.prompt_ids.push_back(id);
    const GenerateResult expected = conversation->answer(request, {});

    const auto other = small_engine();
    const auto loaded = other->converse(config);
    EXPECT_EQ(loaded->load_state(path), "a note");
    EXPECT_EQ(loaded->held_tokens(), 208);
    EXPECT_EQ(loaded->ids(), std::vector(request.prompt_ids.begin(), request.prompt_ids.begin() + 209));
    const GenerateResult found = loaded->answer(request, {});
    EXPECT_EQ(found.ids, expected.ids);
    EXPECT_EQ(found.held_tokens, 208);
  }
}

TEST(SavedConversations, ALoadThatFailsLeavesWhatIsHeld) {
  const TemporaryFolder folder;
  const auto engine = small_engine();
  const auto conversation = engine->converse(full_attention());
  GenerateRequest request;
  request.prompt_ids = random_ids(100);
  request.max_new_tokens = 5;
  request.ignore_eos = true;
  (void)conversation->answer(request, {});
  const auto ids = conversation->ids();
  EXPECT_NE(refusal([&] { (void)conversation->load_state(folder.path() / "missing"); }), "taken");
  EXPECT_NE(refusal([&] { (void)conversation->load_state(folder.write("foreign", "text")); }), "taken");
  EXPECT_EQ(conversation->ids(), ids);
  EXPECT_EQ(conversation->held_tokens(), 104);
}

}  // namespace
}  // namespace shadowkv::testing
