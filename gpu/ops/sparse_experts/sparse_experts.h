// DeepSeek-V2's routed experts on a GPU: router, grouped products, sum. The op SparseExperts.
//
// Letters: T tokens, D hidden, F expert hidden, E experts of the router, K chosen ones. Everything lies in
// device memory and on one stream; nothing waits for the device. Results do not depend on chance: sums
// have a fixed order. Functions return a cudaError_t (0 is success) and nothing throws.
#ifndef HYBRIDSEEK_SPARSE_EXPERTS_H
#define HYBRIDSEEK_SPARSE_EXPERTS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// How the experts' matrices are stored, rows 16-byte aligned.
enum {
  SPARSE_EXPERTS_BF16 = 0,
  SPARSE_EXPERTS_INT8 = 1,  ///< levels around 128, blocks of 32 along a row with f16 scales
  SPARSE_EXPERTS_INT4 = 2,  ///< levels around 8, low nibble first; else as int8
  SPARSE_EXPERTS_FP8 = 3,   ///< e4m3, an f32 scale for each row
};

typedef struct {
  uint32_t hidden, width;  ///< D and F: multiples of 64, F of 32 for bf16 weights
  uint32_t experts;        ///< E, at most 256
  uint32_t first, held;    ///< experts whose matrices are here; the others add nothing
  uint32_t k;
  uint32_t groups, top_groups;  ///< 1 and 1: greedy
  uint32_t normalize;           ///< 1: the chosen scores are divided by their sum
  float scaling;
  uint32_t format;
} SparseExpertsShape;

typedef struct {
  const float* x;       ///< [T, D]
  const float* router;  ///< [E, D]
  const void* gate_up;  ///< [held, 2F, D], rows gate 0, up 0, gate 1, up 1, ...
  const void* gate_up_scales;
  const void* down;  ///< [held, D, F]
  const void* down_scales;
  float* y;          ///< [T, D]
  int32_t* chosen;   ///< [T, K] by falling score, ties by rising index
  float* weights;    ///< [T, K]
  void* workspace;   ///< sparse_experts_workspace() bytes, 256-byte aligned
} SparseExpertsTensors;

/// What is wrong with a shape, in words; null if the kernels take it.
const char* sparse_experts_refusal(const SparseExpertsShape* shape);

/// Bytes of temporary memory for a step.
size_t sparse_experts_workspace(const SparseExpertsShape* shape, uint32_t tokens);

/// Launches everything on `stream`.
int sparse_experts_run(const SparseExpertsShape* shape, const SparseExpertsTensors* tensors,
                       uint32_t tokens, void* stream);

#ifdef __cplusplus
}
#endif

#endif
