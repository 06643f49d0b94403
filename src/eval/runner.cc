#include "eval/runner.h"

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
    const std::string hash = hash_text(prompt_hash(sample.prompt));
    outcome_.prompts_hash = hash_of(hash, outcome_.prompts_hash);
    outcome_.samples += 1;
    const std::vector<std::string>& methods = subject_.methods();
    std::vector<int64_t> missing;
    for (std::size_t m = 0; m < methods.size(); ++m) {
      if (!known_.contains(key_of(hash, methods[m]))) missing.push_back(static_cast<int64_t>(m));
    }
    if (!missing.empty() && !ask(sample, hash, missing)) {
      outcome_.skipped += 1;
      return;
    }
    outcome_.found += static_cast<int64_t>(methods.size() - missing.size());
    for (const std::string& method : methods)
      outcome_.results.push_back(recalled(sample, key_of(hash, method)));
  }

  [[nodiscard]] RunOutcome outcome() && { return std::move(outcome_); }

 private:
  // False where the sample is longer than the model can read.
  bool ask(const Sample& sample, const std::string& hash, const std::vector<int64_t>& missing) {
    const std::vector<int32_t> ids = subject_.encode(sample.prompt);
    const auto tokens = static_cast<int64_t>(ids.size());
    if (tokens + sample.max_new_tokens > subject_.context()) return false;
    const std::vector<Answer> answers = subject_.answer(ids, missing, sample.max_new_tokens);
    for (std::size_t i = 0; i < missing.size(); ++i) {
      const std::string& method = subject_.methods().at(static_cast<std::size_t>(missing[i]));
      Result result = result_of(sample, answers.at(i));
      result.prompt_hash = hash;
      result.method = method;
      result.prompt_tokens = tokens;
      known_.insert_or_assign(key_of(hash, method), file_.results().size());
      file_.append(result);
    }
    return true;
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
