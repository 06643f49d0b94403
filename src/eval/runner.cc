#include "eval/runner.h"

#include <algorithm>
#include <unordered_map>

#include "eval/random.h"

namespace shadowkv::eval {
namespace {

std::string key_of(const std::string& prompt_hash, const std::string& method) {
  return prompt_hash + " " + method;
}

class Run {
 public:
  Run(Subject& subject, ResultFile& file, const RunOptions& options)
      : subject_(subject), file_(file), options_(options) {
    const std::vector<Result>& known = file.results();
    for (std::size_t i = 0; i < known.size(); ++i) {
      if (known[i].run == subject.name())
        known_.insert_or_assign(key_of(known[i].prompt_hash, known[i].method), i);
    }
  }

  void take(const Sample& sample) {
    const std::vector<Sample> turns = turns_of(sample);
    const std::vector<std::string> hashes = hashes_of(turns);
    for (const std::string& hash : hashes) outcome_.prompts_hash = hash_of(hash, outcome_.prompts_hash);
    outcome_.samples += 1;
    const std::vector<std::string>& methods = subject_.methods();
    std::vector<int64_t> missing;
    for (std::size_t m = 0; m < methods.size(); ++m) {
      const bool is_known = std::all_of(hashes.begin(), hashes.end(), [&](const std::string& hash) {
        return known_.contains(key_of(hash, methods[m]));
      });
      if (!is_known) missing.push_back(static_cast<int64_t>(m));
    }
    if (!missing.empty() && !ask(turns, hashes, missing)) {
      outcome_.skipped += 1;
      return;
    }
    outcome_.found += (std::ssize(methods) - std::ssize(missing)) * std::ssize(turns);
    for (std::size_t t = 0; t < turns.size(); ++t) {
      for (const std::string& method : methods)
        outcome_.results.push_back(recalled(turns[t], key_of(hashes[t], method)));
    }
  }

  [[nodiscard]] RunOutcome outcome() && { return std::move(outcome_); }

 private:
  // A turn is named by all prompts up to it.
  [[nodiscard]] static std::vector<std::string> hashes_of(const std::vector<Sample>& turns) {
    std::vector<std::string> hashes{hash_text(prompt_hash(turns.front().prompt))};
    for (std::size_t t = 1; t < turns.size(); ++t)
      hashes.push_back(hash_text(hash_of(hashes.back(), prompt_hash(turns[t].prompt))));
    return hashes;
  }

  // False where the sample is longer than the model can read.
  bool ask(const std::vector<Sample>& turns, const std::vector<std::string>& hashes,
           const std::vector<int64_t>& missing) {
    std::vector<Prompt> prompts;
    std::vector<int64_t> tokens;  // up to each turn's answer
    int64_t most = 0;
    for (const Sample& turn : turns) {
      prompts.push_back(turn.prompt);
      tokens.push_back(most + std::ssize(subject_.encode(turn.prompt)));
      most = tokens.back() + turn.max_new_tokens;
    }
    if (most > subject_.context()) return false;
    const int64_t max_new_tokens = turns.front().max_new_tokens;
    std::vector<Answer> of_one;  // question, by method
    if (turns.size() == 1) of_one = subject_.answer(subject_.encode(prompts[0]), missing, max_new_tokens);
    for (std::size_t i = 0; i < missing.size(); ++i) {
      const std::vector<Answer> answers = turns.size() == 1
                                              ? std::vector<Answer>{of_one.at(i)}
                                              : subject_.converse(prompts, missing[i], max_new_tokens);
      for (std::size_t t = 0; t < turns.size(); ++t) {
        Result result = result_of(turns[t], answers.at(t));
        result.prompt_hash = hashes[t];
        result.method = subject_.methods().at(static_cast<std::size_t>(missing[i]));
        result.prompt_tokens = tokens[t];
        keep(result);
      }
    }
    return true;
  }

  void keep(const Result& result) {
    known_.insert_or_assign(key_of(result.prompt_hash, result.method), file_.results().size());
    file_.append(result);
  }

  [[nodiscard]] Result result_of(const Sample& sample, const Answer& answer) const {
    Result result;
    result.run = subject_.name();
    result.task = sample.task;
    result.length = sample.length;
    result.index = sample.index;
    result.output = answer.output;
    result.references = sample.outputs;
    result.scoring = options_.scoring == Scoring::ruler ? "ruler" : "shadowkv";
    result.score = score(sample, answer.output, options_.scoring);
    result.output_tokens = answer.tokens;
    result.prefill_seconds = answer.prefill_seconds;
    result.decode_seconds = answer.decode_seconds;
    result.device_bytes = answer.device_bytes;
    result.host_bytes = answer.host_bytes;
    return result;
  }

  // A result of the file, as this sample and this scoring have it.
  [[nodiscard]] Result recalled(const Sample& sample, const std::string& key) const {
    Result result = file_.results().at(known_.at(key));
    result.task = sample.task;
    result.length = sample.length;
    result.index = sample.index;
    result.score = score(sample, result.output, options_.scoring);
    return result;
  }

  Subject& subject_;
  ResultFile& file_;
  const RunOptions& options_;
  std::unordered_map<std::string, std::size_t> known_;  // where the file holds a prompt's and method's result
  RunOutcome outcome_;
};

}  // namespace

RunOutcome run_samples(const SampleSource& source, Subject& subject, ResultFile& file,
                       const RunOptions& options) {
  Run run(subject, file, options);
  const auto all = static_cast<int64_t>(source.size());
  int64_t done = 0;
  for (const auto& make : source) {
    const Sample sample = make();
    if (options.progress) options.progress(done++, all, sample.task);
    run.take(sample);
  }
  if (options.progress) options.progress(all, all, "");
  return std::move(run).outcome();
}

}  // namespace shadowkv::eval
