// Weights of a file in the format of grouped_gemm.cuh.
#ifndef HYBRIDSEEK_WEIGHTS_H
#define HYBRIDSEEK_WEIGHTS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/// Rounds `count` elements, f16 if `half` and else f32, to bf16. Gives a cudaError_t.
int weights_to_bf16(const void* from, int half, size_t count, void* to, void* stream);

#ifdef __cplusplus
}
#endif

#endif
