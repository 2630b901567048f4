// Attention over a paged latent cache (MLA, absorbed form): FlashInfer's kernels for rows of [latent 512 |
// rotated key 64], ours (generic_attention/) for others, behind C.
//
// A step is planned once on the host and the plan serves every layer and either kind. Shapes: T tokens,
// B sequences, H heads, C columns of the latent and R of the rotated key, P rows per block, which lie in turn.
// Every function returns a cudaError_t (0 is success) and nothing throws.
#ifndef HYBRIDSEEK_LATENT_ATTENTION_H
#define HYBRIDSEEK_LATENT_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#include "../generic_attention/generic_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/// FlashInfer's sizes.
#define LATENT_ATTENTION_LATENT 512
#define LATENT_ATTENTION_ROTARY 64
#define LATENT_ATTENTION_PLAN_WORDS 18
/// Bytes that hold the plan's tables for any batch, on the host and on the device.
#define LATENT_ATTENTION_INT_WORKSPACE (8u << 20)

typedef struct {
  uint32_t heads;
  uint32_t block_size;
  /// Grid and offsets into the workspaces, as FlashInfer's planner gives them.
  int64_t offsets[LATENT_ATTENTION_PLAN_WORDS];
  /// Bytes of the host tables that must be copied to the device's int workspace.
  size_t staged_bytes;
  /// Of our kernels, whose tables begin at an offset.
  GenericAttentionPlan generic;
  size_t generic_offset;
} LatentAttentionPlan;

typedef struct {
  const void* query_latent;      ///< bf16 [T, H, C]: the query times W_UK
  const void* query_rotary;      ///< bf16 [T, H, R]
  const void* cache;             ///< bf16 or fp8 e4m3 [blocks, P, C + R], 16-byte aligned
  const int32_t* block_indices;  ///< blocks of sequence 0, then of sequence 1, ...
  void* output;                  ///< bf16 [T, H, C], to be multiplied by W_UV
  float* log_sum_exp;            ///< [T, H], natural logarithm; may be null
  void* int_workspace;           ///< device copy of the plan's tables
  void* float_workspace;         ///< partial results of split contexts
  float scale;                   ///< of the scores
  float cache_scale;             ///< an fp8 element times this is its value; 1 for bf16
  uint32_t latent, rotary;       ///< C and R: 512 and 64 for FlashInfer's kernels
} LatentAttentionTensors;

/// Plans a step. `query_starts` [B+1], `block_starts` [B+1] (prefix sums of block counts) and
/// `context_lengths` [B] lie on the host; `tables` has LATENT_ATTENTION_INT_WORKSPACE bytes, and its
/// first `staged_bytes` are to be copied to the int workspace. Causal: token i of a sequence's n sees
/// keys 0 ... context - n + i.
/// The device's number of multiprocessors decides the grid. `float_bytes` is the size of the float
/// workspace; too small a one is refused.
int latent_attention_plan(const int32_t* query_starts, const int32_t* block_starts,
                          const int32_t* context_lengths, uint32_t sequences, uint32_t heads,
                          uint32_t block_size, int causal, void* tables, size_t float_bytes,
                          LatentAttentionPlan* plan);

/// FlashInfer's kernels, one per architecture and cache format; each launches once on `stream`, cooperatively.
int latent_attention_sm80_bf16(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                               int causal, void* stream);
int latent_attention_sm80_fp8(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                              int causal, void* stream);
int latent_attention_sm86_bf16(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                               int causal, void* stream);
int latent_attention_sm90_bf16(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                               int causal, void* stream);
int latent_attention_sm90_fp8(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                              int causal, void* stream);

/// Ours. C is a multiple of 32 up to 512, R one of 16 up to 128; null, or why this device can not.
const char* latent_attention_generic_refusal(uint32_t latent, uint32_t rotary, int cache_fp8);
int latent_attention_generic_bf16(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                                  int causal, void* stream);
int latent_attention_generic_fp8(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                                 int causal, void* stream);

/// What lies around those kernels in the op LatentAttention. N and V, the nope and value dims, are
/// multiples of 8.
typedef struct {
  uint32_t tokens, heads, nope, value, rank, rotary;
  float epsilon;             ///< of the latent's RMS norm
  int cache_fp8;             ///< else bf16
  const float* query;        ///< [T, H, N + R], before the rotation
  const float* latent;       ///< [T, C + R], before the norm and the rotation
  const float* norm_weight;  ///< [C]
  const float* cos;          ///< [T, R/2]
  const float* sin;          ///< [T, R/2]
  const int32_t* slots;      ///< [T]: rows of the cache, as if it were one block
  const void* key_up;        ///< bf16 [H, C, N]: W_UK, transposed
  const void* value_up;      ///< bf16 [H, V, C]: W_UV
  void* cache;               ///< rows of C + R
  void* query_nope;          ///< bf16 [T, H, N], temporary
  void* query_latent;        ///< bf16 [T, H, C]
  void* query_rotary;        ///< bf16 [T, H, R]
  void* output;              ///< bf16 [T, H, C]
  float* y;                  ///< [T, H, V]
} LatentAttentionStep;

/// Gives key_up and value_up for kv_b [H, N + V, C], which is f16 if `half` and else f32.
int latent_attention_pack(const void* kv_b, int half, uint32_t heads, uint32_t nope, uint32_t value,
                          uint32_t latent, void* key_up, void* value_up, void* stream);
/// Appends the step's rows to the cache and makes the queries in the latent space.
int latent_attention_prepare(const LatentAttentionStep* step, void* stream);
/// From the attention's output in the latent space to y.
int latent_attention_project(const LatentAttentionStep* step, void* stream);

#ifdef __cplusplus
}
#endif

#endif
