// The inputs that say which tokens a step has and where their cache lies: checked, since kernels trust them.
#pragma once

#include <algorithm>
#include <tuple>

#include "cpu_kernels.h"
#include "op.h"

namespace hybridseek {

// Input names from slots on, the same for both attention ops.
inline void add_step_inputs(std::vector<Argument>& inputs) {
  for (auto name : {"slots", "query_starts", "context_lengths", "block_tables"}) {
    inputs.push_back({name, kInt32});
  }
}

struct StepBatch {
  cpu::Batch batch;
  size_t longest_context;
};

// Checks a step for a cache [blocks, P, ...] and gives its longest context. `error` makes what is thrown.
template <typename MakeError>
size_t check_batch(const cpu::Batch& batch, int64_t blocks, int64_t block_size, MakeError error) {
  auto in_range = [&](const char* name, int64_t index, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return;
    throw error(std::string(name) + "[" + std::to_string(index) + "] is " + std::to_string(value) +
                ", it can be " + std::to_string(least) + " to " + std::to_string(most) + ".");
  };
  auto number = [](size_t n) { return static_cast<int64_t>(n); };
  int64_t tokens = number(batch.tokens), sequences = number(batch.sequences), width = number(batch.table_width);
  auto [slot, start, length, table] =
      std::tie(batch.slots, batch.query_starts, batch.context_lengths, batch.block_tables);
  for (int64_t t = 0; t < tokens; t++) in_range("slots", t, slot[t], 0, blocks * block_size - 1);
  in_range("query_starts", 0, start[0], 0, 0);
  in_range("query_starts", sequences, start[sequences], tokens, tokens);
  int64_t longest = 0;
  for (int64_t b = 0; b < sequences; b++) {
    in_range("query_starts", b + 1, start[b + 1], start[b], tokens);
    in_range("context_lengths", b, length[b], start[b + 1] - start[b], width * block_size);
    longest = std::max<int64_t>(longest, length[b]);
    int64_t used = (length[b] + block_size - 1) / block_size;
    for (int64_t i = 0; i < used; i++) {
      in_range("block_tables", b * width + i, table[b * width + i], 0, blocks - 1);
    }
  }
  return static_cast<size_t>(longest);
}

// Reads slots and what follows from input `first` on, for a cache [blocks, P, ...].
inline StepBatch read_step_batch(const Run& run, size_t first, int64_t tokens, int64_t blocks,
                                 int64_t block_size) {
  Tensor slots = run.input(first, {tokens});
  Tensor lengths = run.input(first + 2, {-1});
  int64_t sequences = lengths.dim(0);
  Tensor starts = run.input(first + 1, {sequences + 1});
  Tensor tables = run.input(first + 3, {sequences, -1});
  cpu::Batch batch{static_cast<size_t>(tokens),       static_cast<size_t>(sequences),
                   static_cast<size_t>(tables.dim(1)), slots.as<const int32_t>(),
                   starts.as<const int32_t>(),         lengths.as<const int32_t>(),
                   tables.as<const int32_t>()};
  size_t longest = check_batch(batch, blocks, block_size, [&](const std::string& what) { return run.error(what); });
  return {batch, longest};
}

// How often a cache had to be copied, because a caller did not bind it as input and output.
size_t cache_copies();
void count_cache_copy();

// The cache that is written: the input itself where the caller bound it as the output, else a copy of it.
float* writable_cache(const Run& run, const Tensor& cache, size_t output);

}  // namespace hybridseek
