// Attention over a paged cache of bf16 or fp8 rows, for heads of any size that FlashInfer's kernels lack, behind C.
//
// Shapes: T tokens, B sequences, H query heads, G key heads (H is a multiple), W columns of a key and V of a
// value, P rows per block. Values may be the first columns of keys, as in a latent cache, where G is 1. Every
// function returns a cudaError_t (0 is success) and nothing throws.
#ifndef HYBRIDSEEK_GENERIC_ATTENTION_H
#define HYBRIDSEEK_GENERIC_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint32_t sequences, tokens, heads, groups, tiles;
  /// How many blocks share a context.
  uint32_t splits;
  /// Bytes of the host tables that must be copied to the device.
  size_t staged_bytes;
} GenericAttentionPlan;

typedef struct {
  uint32_t width;                ///< W, of which the first `leading` columns of queries lie in `query`
  uint32_t value_width;          ///< V
  uint32_t block_size;           ///< P
  uint32_t leading;
  int cache_fp8;                 ///< else bf16
  int result_f32;                ///< else bf16
  const void* query;             ///< bf16 [T, H, leading]
  const void* query_rest;        ///< bf16 [T, H, W - leading]
  const void* keys;              ///< [blocks, P, G, W], 16-byte aligned
  const void* values;            ///< [blocks, P, G, V], or `keys`: their first V columns
  const int32_t* block_indices;  ///< blocks of sequence 0, then of sequence 1, ...
  const void* tables;            ///< device copy of the plan's tables
  void* partials;                ///< float workspace
  void* result;                  ///< [T, H, V]
  float* log_sum_exp;            ///< [T, H], natural logarithm; may be null
  float scale;                   ///< of the scores
  float cache_scale;             ///< an element times this is its value
} GenericAttentionTensors;

/// Null, or why there is no kernel for such sizes: `shared_values` where values are the keys' first columns.
const char* generic_attention_refusal(uint32_t width, uint32_t value_width, int shared_values, int cache_fp8);

/// Plans a step: numbers of tokens and sequences decide all but what the tables hold. `query_starts` [B+1], `block_starts` [B+1] (prefix sums of block counts) and
/// `context_lengths` [B], all above 0, lie on the host; so do `tables`, whose first `staged_bytes` are to be
/// copied to the device. Token i of a sequence's n sees keys 0 ... context - n + i. `float_bytes` is the size of
/// the float workspace; fewer bytes mean less sharing of contexts, none will do.
int generic_attention_plan(const int32_t* query_starts, const int32_t* block_starts,
                           const int32_t* context_lengths, uint32_t sequences, uint32_t heads, uint32_t groups,
                           uint32_t value_width, void* tables, size_t table_bytes, size_t float_bytes,
                           GenericAttentionPlan* plan);

int generic_attention_run(const GenericAttentionPlan* plan, const GenericAttentionTensors* tensors, void* stream);

#ifdef __cplusplus
}
#endif

#endif
