// Writes what the fuzz targets start from: small valid files, SEEDS/<target>/<name>.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "formats/gguf_writer.h"
#include "formats/json.h"
#include "formats/safetensors_writer.h"
#include "formats/state_file.h"

namespace shadowkv::testing {
namespace {

namespace fs = std::filesystem;

void write(const fs::path& file, std::string_view content) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << content;
}

// One array or value of every type that GGUF's keys have.
std::string gguf_of_values() {
  GgufWriter writer;
  writer.text("general.name", "v").integer("general.alignment", 8).strings("words", {"a", "bc", ""});
  writer.scalar<uint8_t>("u8", 0, 1).scalar<int8_t>("i8", 1, -1).scalar<uint16_t>("u16", 2, 1);
  writer.scalar<int16_t>("i16", 3, -1).scalar<int32_t>("i32", 5, -1).real("f32", 1.5f);
  writer.scalar<uint8_t>("flag", 7, 1).scalar<uint64_t>("u64", 10, 1).scalar<int64_t>("i64", 11, -1);
  writer.scalar("f64", 12, 0.5).array("flags", 7, 2, std::string("\0\1", 2));
  writer.array("numbers", 5, 2, bytes_of<int32_t>({-1, 2})).array("reals", 6, 1, bytes_of<float>({1.5f}));
  writer.alignment = 8;
  return writer.floats("t", {2, 3}, {1, 2, 3, 4, 5, 6}).bytes();
}

// One row of every encoding.
std::string gguf_of_tensors() {
  GgufWriter writer;
  for (const Encoding encoding :
       {Encoding::f32, Encoding::f16, Encoding::bf16, Encoding::q4_0, Encoding::q4_1, Encoding::q5_0,
        Encoding::q5_1, Encoding::q8_0, Encoding::q4_k, Encoding::q5_k, Encoding::q6_k, Encoding::iq4_nl}) {
    const BlockLayout layout = layout_of(encoding);
    writer.tensor(std::string(name_of(encoding)), {1, static_cast<uint64_t>(layout.elements)}, encoding,
                  std::string(static_cast<std::size_t>(layout.bytes), '\1'));
  }
  return writer.bytes();
}

// A llama's keys and a vocabulary.
std::string gguf_of_model() {
  GgufWriter writer;
  writer.text("general.architecture", "llama").text("general.name", "Seed");
  writer.integer("llama.block_count", 2).integer("llama.context_length", 128);
  writer.integer("llama.embedding_length", 16).integer("llama.feed_forward_length", 24);
  writer.integer("llama.attention.head_count", 4).integer("llama.attention.head_count_kv", 2);
  writer.integer("llama.attention.key_length", 8).integer("llama.vocab_size", 7);
  writer.real("llama.attention.layer_norm_rms_epsilon", 1e-5f).real("llama.rope.freq_base", 5000.0f);
  writer.text("llama.rope.scaling.type", "yarn").real("llama.rope.scaling.factor", 4.0f);
  writer.integer("llama.rope.scaling.original_context_length", 32);
  writer.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "llama-bpe");
  writer.strings("tokenizer.ggml.tokens", {"<s>", "a", "b", "ab", "unused", "<tool>", "caf\u00c3\u00a9"});
  writer.array("tokenizer.ggml.token_type", 5, 7, bytes_of<int32_t>({3, 1, 1, 1, 5, 4, 1}));
  writer.strings("tokenizer.ggml.merges", {"a b"}).integer("tokenizer.ggml.bos_token_id", 0);
  writer.integer("tokenizer.ggml.eos_token_id", 3).scalar<uint8_t>("tokenizer.ggml.add_bos_token", 7, 1);
  return writer.floats("token_embd.weight", {7, 16}, std::vector<float>(112, 0.5f)).bytes();
}

// A golden tokenizer with few of its tokens: mutations of a long vocabulary find little.
std::string small_tokenizer(const fs::path& golden) {
  const JsonDocument json = read_json_file(golden);
  nlohmann::json& model = (*json)["model"];
  nlohmann::json vocab = nlohmann::json::object(), merges = nlohmann::json::array();
  for (const auto& [text, id] : model["vocab"].items()) {
    if (text.find_first_not_of("abcdenrt\u0120") == std::string::npos || text.starts_with("<"))
      vocab[text] = id;
  }
  for (const auto& merge : model["merges"]) {
    const auto text = merge.is_array() ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                                       : merge.get<std::string>();
    const std::string left = text.substr(0, text.find(' ')), right = text.substr(text.find(' ') + 1);
    if (vocab.contains(left) && vocab.contains(right) && vocab.contains(left + right))
      merges.push_back(merge);
  }
  model["vocab"] = vocab;
  model["merges"] = merges;
  return json_text(*json);
}

// Layouts of families, and some of the small templates: [source, text] a line.
void write_templates(const fs::path& folder, const fs::path& testdata) {
  std::string line;
  for (std::ifstream file(testdata / "families.jsonl"); std::getline(file, line);) {
    const nlohmann::json family = nlohmann::json::parse(line);
    write(folder / family["name"].get<std::string>(), family["source"].get<std::string>());
  }
  std::ifstream file(testdata / "snippets.jsonl");
  for (int64_t number = 0; std::getline(file, line); ++number) {
    if (number % 20 == 0)
      write(folder / std::to_string(number), nlohmann::json::parse(line)[0].get<std::string>());
  }
}

// The patterns or schemas that stand first in the lines of a golden file, behind a byte that says which.
void write_constraints(const fs::path& folder, const fs::path& golden, char kind) {
  std::ifstream file(golden);
  int number = 0;
  for (std::string line; std::getline(file, line); ++number) {
    const auto source = nlohmann::ordered_json::parse(line)[0];
    const std::string text = source.is_string() ? source.get<std::string>() : source.dump();
    write(folder / (golden.stem().string() + std::to_string(number)), kind + text);
  }
}

// Bodies of requests and answers with calls of tools, behind a byte that says which
// (fuzz_completion_request.cc).
void write_requests(const fs::path& folder) {
  const std::string tools =
      R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties":
           {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"enum": [1, "x"]}}}}}, {"function": {"name": "get"}}])";
  write(folder / "chat",
        std::string("\x01") + R"({"messages": [{"role": "system", "content": [{"type": "text", "text": "x"}]},
      {"role": "user", "content": "Hi"}], "max_tokens": 5, "stream": true, "stream_options": {"include_usage": true},
      "logprobs": true, "top_logprobs": 2, "stop": ["a"], "seed": 1, "logit_bias": {"3": -1}, "user": "u"})");
  write(folder / "tools",
        std::string("\x09") +
            R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls":
      [{"id": "1", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}, {"role": "tool", "tool_call_id": "1", "content": "r"}],)" +
            tools + "}");
  for (const char kind : {'\x01', '\x03', '\x25', '\x07'}) {
    write(folder / ("required" + std::to_string(kind)),
          kind + (R"({"messages": [{"role": "user", "content": "Hi"}], "tool_choice": "required",)" + tools +
                  "}"));
  }
  write(folder / "form", std::string("\x01") +
                             R"({"messages": [{"role": "user", "content": "Hi"}], "response_format": {"type":
      "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"b": {}, "a": {"type": "integer"}}}}},)" +
                             tools + "}");
  write(folder / "completion",
        std::string(1, '\x02') + R"({"prompt": ["a", [1, 2]], "n": 2, "echo": true, "temperature": 0.5,
      "top_p": 0.9, "response_format": {"type": "json_object"}, "stop_token_ids": [1]})");
  write(folder / "hermes",
        "\x40"
        R"(Hi <tool_call>{"name": "f", "arguments": {"a": "\"}"}}</tool_call> <tool_call>[{"name":
      "get"}, {"arguments": "{}", "name": "f"}]</tool_call>)");
  write(folder / "llama",
        "\x42"
        R"({"name": "f", "parameters": {"a": [1]}}; {"name": "x", "parameters": {}})");
  write(folder / "python",
        "\x42"
        R"(<|python_tag|>{"name": "f", "parameters": null})");
  write(folder / "mistral",
        "\x44"
        R"(So: [TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "a"}, {"name": "get"}])");
  write(folder / "glm",
        "\x46"
        "f\n{\"a\": {}}\nget\n{}");
}

void write_state(const fs::path& file) {
  fs::create_directories(file.parent_path());
  const StateDescription description{.model = "seed",
                                     .fingerprint = "0123456789abcdef",
                                     .dtype = "float32",
                                     .attention = "method=full,values=float32",
                                     .tokens = 2,
                                     .ids = 3,
                                     .note_bytes = 4,
                                     .numbers = {1, 32, 64, 0, 0, 300}};
  const std::string content = "aaaabbbbccccnotestate";
  ThreadPool threads(1);
  StateWriter writer(file, description, std::ssize(content));
  writer.write(0, std::as_bytes(std::span(content)), threads);
  writer.commit();
}

void write_all(const fs::path& seeds, const fs::path& testdata) {
  write(seeds / "gguf" / "values", gguf_of_values());
  write(seeds / "gguf" / "tensors", gguf_of_tensors());
  write(seeds / "gguf" / "model", gguf_of_model());
  SafetensorsWriter file;
  file.metadata("format", "pt").floats("x", {2, 3}, {1, 2, 3, 4, 5, 6}).tensor("y", "BF16", {2}, "1234");
  write(seeds / "safetensors" / "file", file.tensor("n", "I64", {}, "12345678").bytes());
  write(seeds / "safetensors" / "index",
        R"({"metadata": {"total_size": 16}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors",
            "z": "b.safetensors"}})");
  write(
      seeds / "hub_listing" / "folder",
      R"({"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{"rfilename": "config.json", "size": 2,
            "blobId": "ce013625030ba8dba906f756967f9e9ca394464a"}, {"rfilename": "model.safetensors", "lfs": {"sha256":
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", "size": 6}}]})");
  write(seeds / "hub_listing" / "gguf",
        R"({"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{"rfilename": "a/m-Q4_K_M.gguf"},
            {"rfilename": "m-Q8_0.gguf"}, {"rfilename": "mmproj.gguf"}, {"rfilename": "m-00001-of-00002.gguf"}]})");
  for (const char* name : {"added", "behaviors", "gpt2_prefix_space", "llama3", "qwen2", "removed"}) {
    const fs::path golden = testdata / "tokenizer" / (std::string(name) + ".json");
    write(seeds / "tokenizer_json" / name, small_tokenizer(golden));
  }
  write_state(seeds / "state_file" / "small");
  write_templates(seeds / "chat_template", testdata / "template");
  for (const char* name :
       {"llama_dynamic", "llama_gqa", "llama_linear", "llama_rope3", "llama_yarn", "phi3_long"}) {
    fs::create_directories(seeds / "config_json");
    fs::copy_file(testdata / "golden" / name / "hf" / "config.json", seeds / "config_json" / name,
                  fs::copy_options::overwrite_existing);
  }
  write_constraints(seeds / "constraint", testdata / "constraint" / "regex.jsonl", '\1');
  write_constraints(seeds / "constraint", testdata / "constraint" / "schema.jsonl", '\2');
  write_requests(seeds / "completion_request");
}

}  // namespace
}  // namespace shadowkv::testing

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: fuzz_seeds SEEDS TESTDATA\n";
    return 2;
  }
  shadowkv::testing::write_all(argv[1], argv[2]);
}
