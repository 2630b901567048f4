// Before the attention: the caches' new rows, and the rotated queries.
#include <cuda_bf16.h>

#include "paged_attention.h"

namespace hybridseek {
namespace {

constexpr int kThreads = 64;

// Rotates a head and rounds it.
__device__ void rotate(const float* from, const float* cos, const float* sin, int width, bool interleaved,
                       __nv_bfloat16* into) {
  for (int pair = threadIdx.x; pair < width / 2; pair += kThreads) {
    int a = interleaved ? 2 * pair : pair, b = interleaved ? a + 1 : a + width / 2;
    into[a] = __float2bfloat16_rn(from[a] * cos[pair] - from[b] * sin[pair]);
    into[b] = __float2bfloat16_rn(from[b] * cos[pair] + from[a] * sin[pair]);
  }
}

// A block for each vector of a token: H queries, G keys, G values.
__global__ void __launch_bounds__(kThreads)
    append_and_rotate(const PagedAttentionTensors t, int heads, int groups, int width, int value_width) {
  int64_t token = blockIdx.x, slot = t.slots[token];
  const float *cos = t.cos + token * (width / 2), *sin = t.sin + token * (width / 2);
  int of_token = blockIdx.y;
  if (of_token < heads) {
    int64_t at = (token * heads + of_token) * width;
    rotate(t.query + at, cos, sin, width, t.interleaved, static_cast<__nv_bfloat16*>(t.rotated) + at);
    return;
  }
  int group = of_token - heads;
  if (group < groups) {
    auto* row = static_cast<__nv_bfloat16*>(t.key_cache) + (slot * groups + group) * width;
    rotate(t.key + (token * groups + group) * width, cos, sin, width, t.interleaved, row);
    return;
  }
  group -= groups;
  const float* from = t.value + (token * groups + group) * value_width;
  auto* row = static_cast<__nv_bfloat16*>(t.value_cache) + (slot * groups + group) * value_width;
  for (int i = threadIdx.x; i < value_width; i += kThreads) row[i] = __float2bfloat16_rn(from[i]);
}

}  // namespace
}  // namespace hybridseek

extern "C" int paged_attention_append(const PagedAttentionPlan* plan, const PagedAttentionTensors* tensors,
                                      void* stream) {
  using namespace hybridseek;
  dim3 blocks(plan->tokens, plan->heads + 2 * plan->groups);
  append_and_rotate<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      *tensors, static_cast<int>(plan->heads), static_cast<int>(plan->groups), static_cast<int>(plan->width),
      static_cast<int>(plan->value_width));
  return cudaGetLastError();
}
