// Multi-head and grouped-query attention over paged caches of keys and values: FlashInfer's kernels for heads
// of 128 columns, ours (generic_attention/) for others, behind C.
//
// Shapes: T tokens, B sequences, H query heads, G key heads (H is a multiple), W columns of a key and V of a
// value, P rows per block. Caches are bf16. Every function returns a cudaError_t (0 is success), nothing throws.
#ifndef HYBRIDSEEK_PAGED_ATTENTION_H
#define HYBRIDSEEK_PAGED_ATTENTION_H

#include "../generic_attention/generic_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Columns of a head of FlashInfer's kernels.
#define PAGED_ATTENTION_HEAD 128

typedef struct {
  uint32_t tokens, sequences, heads, groups, width, value_width, block_size;
  /// FlashInfer's plan: whether contexts are split, blocks of a key head, rows of a tile and of partial results.
  uint32_t split, blocks, query_tile, parts;
  /// Ours, where a head has other sizes.
  GenericAttentionPlan generic;
  /// Bytes of the host tables that must be copied to the device's int workspace.
  size_t staged_bytes;
} PagedAttentionPlan;

typedef struct {
  const float* query;            ///< [T, H, W], before the rotation
  const float* key;              ///< [T, G, W], before the rotation
  const float* value;            ///< [T, G, V]
  const float* cos;              ///< [T, W/2]
  const float* sin;              ///< [T, W/2]
  const int32_t* slots;          ///< [T]: rows of the caches, as if they were one block
  const int32_t* block_indices;  ///< blocks of sequence 0, then of sequence 1, ...
  int interleaved;               ///< neighbouring columns rotate, else the two halves do
  void* key_cache;               ///< bf16 [blocks, P, G, W], 16-byte aligned
  void* value_cache;             ///< bf16 [blocks, P, G, V], 16-byte aligned
  void* rotated;                 ///< bf16 [T, H, W], temporary
  float* y;                      ///< [T, H, V]
  void* int_workspace;           ///< device copy of the plan's tables
  void* float_workspace;         ///< partial results of split contexts
  float scale;                   ///< of the scores
} PagedAttentionTensors;

/// Null, or why there is no kernel for such heads.
const char* paged_attention_refusal(uint32_t heads, uint32_t groups, uint32_t width, uint32_t value_width);

/// Plans a step. `plan` has its sizes; `query_starts` [B+1], `block_starts` [B+1] (prefix sums of block counts)
/// and `context_lengths` [B], all above 0, lie on the host. `tables` has `table_bytes`, and its first
/// `staged_bytes` are to be copied to the int workspace. Token i of a sequence's n sees keys
/// 0 ... context - n + i. Too small a workspace is refused.
int paged_attention_plan(const int32_t* query_starts, const int32_t* block_starts,
                         const int32_t* context_lengths, void* tables, size_t table_bytes, size_t float_bytes,
                         PagedAttentionPlan* plan);

/// Appends the step's rows to the caches and rotates the queries.
int paged_attention_append(const PagedAttentionPlan* plan, const PagedAttentionTensors* tensors, void* stream);
/// Attention over the caches.
int paged_attention_attend(const PagedAttentionPlan* plan, const PagedAttentionTensors* tensors, void* stream);

#ifdef __cplusplus
}
#endif

#endif
