// Times llama.cpp on one GGUF file and prints one JSON line.
//
//   llama_driver <model.gguf> <threads> prefill <tokens> <repeats>
//   llama_driver <model.gguf> <threads> decode <context> <tokens> [sequences]
//
// "prefill" runs prompts of random tokens in batches of up to 512, cache cleared before each.
// "decode" fills the cache with `context` random tokens per sequence, then runs `tokens` steps of one
// token per sequence, the token drawn by a temperature-1 sampler from the step's logits.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "llama.h"

namespace {

constexpr int kBatchTokens = 512;
constexpr int kWarmUpSteps = 8;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "Cannot time llama.cpp: %s.\n", what.c_str());
  std::exit(1);
}

double seconds() {
  using clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(clock::now().time_since_epoch()).count();
}

// One model with one context, and a batch that is filled anew for each step.
class Runner {
 public:
  Runner(const char* path, int threads, int context_tokens, int sequences) {
    llama_log_set(
        [](ggml_log_level level, const char* text, void*) {
          if (level >= GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
        },
        nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    const double begun = seconds();
    model_ = llama_model_load_from_file(path, model_params);
    if (!model_) fail(std::string("it refuses ") + path);
    load_seconds = seconds() - begun;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = context_tokens * sequences;
    params.n_batch = params.n_ubatch = kBatchTokens;
    params.n_seq_max = sequences;
    params.n_threads = params.n_threads_batch = threads;
    params.kv_unified = true;
    context_ = llama_init_from_model(model_, params);
    if (!context_) fail("it makes no context");
    vocab_ = llama_vocab_n_tokens(llama_model_get_vocab(model_));
    batch_ = llama_batch_init(kBatchTokens, 0, 1);
    sampler_ = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(sampler_, llama_sampler_init_temp(1.0f));
    llama_sampler_chain_add(sampler_, llama_sampler_init_dist(1));
  }

  void add(llama_token token, int position, int sequence, bool logits) {
    const int i = batch_.n_tokens++;
    batch_.token[i] = token;
    batch_.pos[i] = position;
    batch_.n_seq_id[i] = 1;
    batch_.seq_id[i][0] = sequence;
    batch_.logits[i] = logits;
  }

  void run() {
    if (llama_decode(context_, batch_) != 0) fail("llama_decode failed");
    llama_synchronize(context_);
    batch_.n_tokens = 0;
  }

  // Feeds `tokens` random tokens of a sequence, logits of the last one only.
  void prefill(int sequence, int tokens) {
    for (int position = 0; position < tokens; position++) {
      add(std::rand() % vocab_, position, sequence, position == tokens - 1);
      if (batch_.n_tokens == kBatchTokens) run();
    }
    if (batch_.n_tokens > 0) run();
  }

  llama_token sample(int row) { return llama_sampler_sample(sampler_, context_, row); }

  void clear() { llama_memory_clear(llama_get_memory(context_), true); }

  double load_seconds = 0;

 private:
  llama_model* model_;
  llama_context* context_;
  llama_sampler* sampler_;
  llama_batch batch_;
  int vocab_;
};

void print_times(const Runner& runner, const std::vector<double>& times) {
  std::printf("{\"loadSeconds\":%.3f,\"seconds\":[", runner.load_seconds);
  for (size_t i = 0; i < times.size(); i++) std::printf("%s%.6f", i ? "," : "", times[i]);
  std::printf("]}\n");
}

int prefill(const char* path, int threads, int tokens, int repeats) {
  Runner runner(path, threads, tokens + kBatchTokens, 1);
  runner.prefill(0, 32);
  std::vector<double> times;
  for (int repeat = 0; repeat < repeats; repeat++) {
    runner.clear();
    const double begun = seconds();
    runner.prefill(0, tokens);
    times.push_back(seconds() - begun);
  }
  print_times(runner, times);
  return 0;
}

int decode(const char* path, int threads, int context, int tokens, int sequences) {
  Runner runner(path, threads, context + kWarmUpSteps + tokens + 1, sequences);
  for (int sequence = 0; sequence < sequences; sequence++) runner.prefill(sequence, context);
  std::vector<llama_token> next(sequences, 1);
  std::vector<double> times;
  for (int step = 0; step < kWarmUpSteps + tokens; step++) {
    const double begun = seconds();
    for (int sequence = 0; sequence < sequences; sequence++) {
      runner.add(next[sequence], context + step, sequence, true);
    }
    runner.run();
    for (int sequence = 0; sequence < sequences; sequence++) {
      next[sequence] = runner.sample(sequence);
    }
    if (step >= kWarmUpSteps) times.push_back(seconds() - begun);
  }
  print_times(runner, times);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 6) fail("usage: llama_driver <gguf> <threads> prefill|decode <size> <count> [sequences]");
  const char* path = arguments[1];
  const int threads = std::atoi(arguments[2]);
  const std::string work = arguments[3];
  const int size = std::atoi(arguments[4]);
  const int amount = std::atoi(arguments[5]);
  if (work == "prefill") return prefill(path, threads, size, amount);
  if (work == "decode") return decode(path, threads, size, amount, count > 6 ? std::atoi(arguments[6]) : 1);
  fail("its work is prefill or decode, not " + work);
}
