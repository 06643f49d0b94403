// Memory that ends in the middle of a load: whichever allocation fails, the load says so and gives everything
// back.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <functional>
#include <new>
#include <set>
#include <string>
#include <thread>

#include "base/parallel.h"
#include "engine/failing_new.h"
#include "engine/requests.h"
#include "formats/temporary_file.h"
#include "model/small_model.h"
#include "shadowkv/shadowkv.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace shadowkv::testing {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kTokenizer = R"({
  "added_tokens": [{"id": 3, "content": "<s>", "single_word": false, "lstrip": true, "rstrip": false,
                    "normalized": true, "special": true}],
  "normalizer": {"type": "NFC"},
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "\\s+|\\w+"}, "behavior": "Isolated", "invert": false},
    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})";

// What became of a load, without a byte on the heap.
enum class Outcome { loaded, out_of_memory, other };

template <typename Load>
Outcome attempt(const Load& load) {
  try {
    load();
    return Outcome::loaded;
  } catch (const std::bad_alloc&) {
    return Outcome::out_of_memory;
  } catch (const OutOfMemory&) {
    return Outcome::out_of_memory;
  } catch (...) {
    return Outcome::other;
  }
}

// Fails each allocation of `load` in turn. What falls back on less memory may load all the same.
void expect_survives(const std::function<void()>& load) {
  load();  // makes what lives as long as the program
  int64_t total = 0;
  {
    const AllocationFailure none(0, Failing::once);
    load();
    total = AllocationFailure::allocations();
  }
  ASSERT_GT(total, 0);
  for (const Failing failing : {Failing::once, Failing::from_then}) {
    for (int64_t nth = 1; nth <= total; ++nth) {
      const int64_t before = live_allocations();
      Outcome outcome = Outcome::other;
      {
        const AllocationFailure failure(nth, failing);
        outcome = attempt(load);
      }
      ASSERT_EQ(live_allocations(), before) << "allocation " << nth << " of " << total;
      ASSERT_NE(outcome, Outcome::other) << "allocation " << nth << " of " << total;
    }
  }
  load();
}

void load_engine(const std::filesystem::path& model, int threads) {
  (void)Engine::load({.model = model, .threads = threads, .device_bytes = 1 << 24, .host_bytes = 1 << 24});
}

TEST(FailingAllocation, OfAGgufModelIsSaidAndLeavesNothingBehind) {
  GgufWriter writer = small_gguf();
  writer.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "llama-bpe");
  writer.strings("tokenizer.ggml.tokens", {"<s>", "a", "b", "ab"}).strings("tokenizer.ggml.merges", {"a b"});
  writer.array("tokenizer.ggml.token_type", 5, 4, bytes_of<int32_t>({3, 1, 1, 1}));
  writer.text("tokenizer.chat_template", "{{ bos_token }}");
  const TemporaryFolder folder;
  const auto path = folder.write("model.gguf", writer.bytes());
  expect_survives([&] { load_engine(path, 1); });
}

TEST(FailingAllocation, OfAFolderWithShardsIsSaidAndLeavesNothingBehind) {
  const TemporaryFolder folder;
  folder.write("config.json", small_hf_config());
  folder.write("generation_config.json", R"({"eos_token_id": [2, 3]})");
  folder.write("tokenizer.json", kTokenizer);
  folder.write("a.safetensors", small_safetensors());
  std::string places;
  for (const SmallTensor& tensor : small_model_tensors()) {
    if (tensor.hf_name.empty()) continue;
    places += (places.empty() ? "\"" : ",\"") + tensor.hf_name + "\":\"a.safetensors\"";
  }
  folder.write("model.safetensors.index.json", "{\"weight_map\": {" + places + "}}");
  expect_survives([&] { load_engine(folder.path(), 1); });
}

TEST(FailingAllocation, OfATokenizerJsonIsSaidAndLeavesNothingBehind) {
  const TemporaryFolder folder;
  const auto path = folder.write("tokenizer.json", kTokenizer);
  expect_survives([&] { (void)Tokenizer::open(path)->encode("<s> ab"); });
}

TEST(FailingAllocation, OfAChatTemplateIsSaidAndLeavesNothingBehind) {
  const TemporaryFolder folder;
  const auto path = folder.write("tokenizer.json", kTokenizer);
  folder.write("tokenizer_config.json",
               R"({"bos_token": {"content": "<s>"}, "additional_special_tokens": ["<s>"],
    "chat_template": [
      {"name": "default", "template":
       "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ m|tojson }}{% endfor %}"},
      {"name": "tool_use", "template":
       "{{ bos_token ~ messages[0].content|trim }}{% for t in tools %}{{ t.a[0] }}{% endfor %}"}]})");
  const auto tokenizer = Tokenizer::open(path);
  expect_survives([&] {
    const auto chat_template = find_chat_template(path, {});
    const std::vector<ChatMessage> messages = {{"user", " a\n"}};
    (void)encode_chat(
        *tokenizer, &*chat_template,
        {.messages = messages_json(messages), .tools = R"([{"a": ["b"]}])", .variables = R"({"c": 1})"});
    (void)encode_chat(*tokenizer, &*chat_template, {.messages = R"([{"role": "user", "reasoning": "x"}])"});
  });
}

TEST(FailingAllocation, OfAPoolOfThreadsIsSaidAndLeavesNoThreadBehind) {
  expect_survives([] {
    ThreadPool pool(3);
    pool.for_each(4, [](int64_t /*i*/) {});
  });
}

// A service of two streams. Whichever allocation fails, a request is refused or fails by saying so, or goes
// on to the bit; the service lives, and nothing is left behind.
class FailingService {
 public:
  FailingService() {
    for (int i = 0; i < 2; ++i) {
      ServiceRequest& request = requests_[static_cast<std::size_t>(i)];
      request.prompt_ids = random_ids(20 + 20 * i, static_cast<uint32_t>(i + 1));
      request.max_new_tokens = 4;
      request.ignore_eos = true;
    }
    requests_[0].ignore_eos = false;
    requests_[0].sampling = {.temperature = 2.0, .seed = 1, .json_object = true};
    requests_[1].sampling = changed_logits(4);
    requests_[1].sampling.stop = {"never said"};
    requests_[1].sampling.logprobs = 2;
  }
  // Requests that begin alike, and a cache that keeps what one of them runs with and nothing else.
  struct Alike {};
  explicit FailingService(Alike /*tag*/)
      : service_(engine_->serve({.attention = full_attention(), .max_reading = 1, .prefix_cache_bytes = 1})) {
    requests_[0] = {.prompt_ids = random_ids(70), .max_new_tokens = 4, .ignore_eos = true};
    requests_[1] = {.prompt_ids = random_ids(150), .max_new_tokens = 3, .ignore_eos = true};
  }

  // Both answers, empty where the request was refused or failed for want of memory.
  std::array<std::vector<int32_t>, 2> serve() {
    std::array<std::unique_ptr<Stream>, 2> streams;
    for (std::size_t i = 0; i < 2; ++i) {
      outcomes_[i] = attempt([&] { streams[i] = service_->submit(requests_[i]); });
    }
    std::array<std::vector<int32_t>, 2> answers;
    for (std::size_t i = 0; i < 2; ++i) {
      if (outcomes_[i] == Outcome::loaded) {
        outcomes_[i] = attempt([&] { answers[i] = read_all(*streams[i]); });
      }
      if (outcomes_[i] != Outcome::loaded) answers[i].clear();
    }
    service_->wait_idle();
    return answers;
  }
  // Bytes that requests hold once they have ended; what was kept for others goes a moment later.
  [[nodiscard]] int64_t held() const {
    for (int i = 0; i < 1000 && held_by_requests(*engine_) > 0; ++i) std::this_thread::sleep_for(1ms);
    return held_by_requests(*engine_);
  }
  [[nodiscard]] int64_t hit_tokens() const { return service_->statistics().prefix_hit_tokens; }
  [[nodiscard]] const std::array<Outcome, 2>& outcomes() const { return outcomes_; }

 private:
  static EngineOptions one_thread() {
    EngineOptions options = small_engine_options();
    options.threads = 1;
    return options;
  }

  std::unique_ptr<Engine> engine_ = Engine::load(one_thread());
  std::unique_ptr<Service> service_ = engine_->serve({.attention = small_shadow()});
  std::array<ServiceRequest, 2> requests_;
  std::array<Outcome, 2> outcomes_{};
};

// Fails every allocation once, one after the other.
void fail_each(FailingService& serving) {
  const auto expected = serving.serve();
  ASSERT_EQ(expected[0].size(), 4u);
  int64_t total = 0;
  {
    const AllocationFailure none(0, Failing::once);
    (void)serving.serve();
    total = AllocationFailure::allocations();
  }
  int64_t survived = 0;
  for (int64_t nth = 1; nth <= total; ++nth) {
    std::array<std::vector<int32_t>, 2> answers;
    {
      const AllocationFailure failure(nth, Failing::once);
      answers = serving.serve();
    }
    for (std::size_t i = 0; i < 2; ++i) {
      ASSERT_NE(serving.outcomes()[i], Outcome::other) << "allocation " << nth << " of " << total;
      if (serving.outcomes()[i] != Outcome::loaded) continue;
      ++survived;
      ASSERT_EQ(answers[i], expected[i]) << "allocation " << nth << " of " << total;
    }
    ASSERT_EQ(serving.held(), 0) << "allocation " << nth << " of " << total;
  }
  EXPECT_GT(survived, total * 19 / 10) << "most of what fails once can be done again";
  EXPECT_EQ(serving.serve(), expected);
}

TEST(FailingAllocation, OfAServiceEndsARequestAtMostAndLeavesNothingBehind) {
  FailingService serving;
  fail_each(serving);
}

TEST(FailingAllocation, OfWhatIsKeptOfPromptsLosesNoMore) {
  FailingService serving(FailingService::Alike{});
  fail_each(serving);
  EXPECT_GT(serving.hit_tokens(), 0);
}

}  // namespace
}  // namespace shadowkv::testing
