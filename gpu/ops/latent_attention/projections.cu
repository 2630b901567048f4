// Around FlashInfer's kernels: the cache's new rows, and the way into and out of the latent space.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "../grouped_gemm/grouped_gemm.cuh"
#include "latent_attention.h"

namespace hybridseek {
namespace {

constexpr int kLatent = LATENT_ATTENTION_LATENT, kRotary = LATENT_ATTENTION_ROTARY;
constexpr int kThreads = 128;

// Rotates the pair (a, b), which are neighbours, by a token's angle.
__device__ float2 rotated(const float* pair, float cos, float sin) {
  return make_float2(pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
}

// A block for each token.
template <typename Cache>
__global__ void __launch_bounds__(kThreads)
    append_rows(const float* latent, const float* norm_weight, const float* cos, const float* sin,
                const int32_t* slots, float epsilon, Cache* cache) {
  __shared__ float of_warps[kThreads / 32];
  int64_t token = blockIdx.x;
  int thread = threadIdx.x;
  const float* row = latent + token * (kLatent + kRotary);
  Cache* into = cache + static_cast<int64_t>(slots[token]) * (kLatent + kRotary);
  constexpr int kEach = kLatent / kThreads;
  float values[kEach], squares = 0;
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    values[i] = row[i * kThreads + thread];
    squares = fmaf(values[i], values[i], squares);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    squares += __shfl_xor_sync(0xffffffff, squares, distance);
  }
  if (thread % 32 == 0) of_warps[thread / 32] = squares;
  __syncthreads();
  squares = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; warp++) squares += of_warps[warp];
  float factor = 1.0f / sqrtf(squares / kLatent + epsilon);
#pragma unroll
  for (int i = 0; i < kEach; i++) {
    int column = i * kThreads + thread;
    into[column] = Cache(values[i] * factor * norm_weight[column]);
  }
  if (thread < kRotary / 2) {
    int64_t angle = token * (kRotary / 2) + thread;
    float2 key = rotated(row + kLatent + 2 * thread, cos[angle], sin[angle]);
    into[kLatent + 2 * thread] = Cache(key.x);
    into[kLatent + 2 * thread + 1] = Cache(key.y);
  }
}

// A block for each head of each token.
__global__ void __launch_bounds__(kThreads)
    split_queries(const float* query, const float* cos, const float* sin, int nope, __nv_bfloat16* query_nope,
                  __nv_bfloat16* query_rotary) {
  int64_t token = blockIdx.x, at = token * gridDim.y + blockIdx.y;
  const float* row = query + at * (nope + kRotary);
  for (int i = threadIdx.x; i < nope; i += kThreads) {
    query_nope[at * nope + i] = __float2bfloat16_rn(row[i]);
  }
  if (threadIdx.x < kRotary / 2) {
    int64_t angle = token * (kRotary / 2) + threadIdx.x;
    float2 turned = rotated(row + nope + 2 * threadIdx.x, cos[angle], sin[angle]);
    reinterpret_cast<__nv_bfloat162*>(query_rotary + at * kRotary)[threadIdx.x] =
        __floats2bfloat162_rn(turned.x, turned.y);
  }
}

// A block for each row of each head. W_UK's rows become columns; this runs once, when a model is opened.
template <typename From>
__global__ void __launch_bounds__(kThreads)
    pack_kv_b(const From* kv_b, int nope, int value, __nv_bfloat16* key_up, __nv_bfloat16* value_up) {
  int row = blockIdx.x;
  int64_t head = blockIdx.y;
  const From* from = kv_b + (head * (nope + value) + row) * kLatent;
  for (int c = threadIdx.x; c < kLatent; c += kThreads) {
    __nv_bfloat16 element = __float2bfloat16_rn(static_cast<float>(from[c]));
    if (row < nope) {
      key_up[(head * kLatent + c) * nope + row] = element;
    } else {
      value_up[(head * value + row - nope) * kLatent + c] = element;
    }
  }
}

// out [T, H, n] = in [T, H, k] times a matrix [n, k] for each head.
template <typename Result>
cudaError_t multiply_heads(const LatentAttentionStep& s, const void* in, const void* matrices, int n, int k,
                           void* out, cudaStream_t stream) {
  GroupedGemm problem{};
  problem.rows = static_cast<int32_t>(s.tokens);
  problem.a = static_cast<const __nv_bfloat16*>(in);
  problem.a_row = static_cast<int64_t>(s.heads) * k;
  problem.a_group = k;
  problem.weights = static_cast<const uint8_t*>(matrices);
  problem.n = n;
  problem.k = k;
  problem.out = out;
  problem.out_row = static_cast<int64_t>(s.heads) * n;
  problem.out_group = n;
  if (s.tokens > FewRows::kRows) {
    unsigned tiles = (s.tokens + ManyRows::kRows - 1) / ManyRows::kRows;
    return launch_grouped_gemm<Bf16Weights, ManyRows, Result>(problem, tiles, s.heads, stream);
  }
  return launch_grouped_gemm<Bf16Weights, FewRows, Result>(problem, 1, s.heads, stream);
}

template <typename Cache>
void append(const LatentAttentionStep& s, cudaStream_t stream) {
  append_rows<<<s.tokens, kThreads, 0, stream>>>(s.latent, s.norm_weight, s.cos, s.sin, s.slots, s.epsilon,
                                                 static_cast<Cache*>(s.cache));
}

}  // namespace
}  // namespace hybridseek

using namespace hybridseek;

extern "C" int latent_attention_pack(const void* kv_b, int half, uint32_t heads, uint32_t nope,
                                     uint32_t value, void* key_up, void* value_up, void* stream) {
  dim3 grid(nope + value, heads);
  auto queue = static_cast<cudaStream_t>(stream);
  auto *keys = static_cast<__nv_bfloat16*>(key_up), *values = static_cast<__nv_bfloat16*>(value_up);
  auto n = static_cast<int>(nope), v = static_cast<int>(value);
  if (half) {
    pack_kv_b<<<grid, kThreads, 0, queue>>>(static_cast<const __half*>(kv_b), n, v, keys, values);
  } else {
    pack_kv_b<<<grid, kThreads, 0, queue>>>(static_cast<const float*>(kv_b), n, v, keys, values);
  }
  return cudaGetLastError();
}

extern "C" int latent_attention_prepare(const LatentAttentionStep* step, void* stream) {
  const LatentAttentionStep& s = *step;
  auto queue = static_cast<cudaStream_t>(stream);
  if (s.cache_fp8) {
    append<__nv_fp8_e4m3>(s, queue);
  } else {
    append<__nv_bfloat16>(s, queue);
  }
  split_queries<<<dim3(s.tokens, s.heads), kThreads, 0, queue>>>(
      s.query, s.cos, s.sin, static_cast<int>(s.nope), static_cast<__nv_bfloat16*>(s.query_nope),
      static_cast<__nv_bfloat16*>(s.query_rotary));
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  return multiply_heads<StoreBf16>(s, s.query_nope, s.key_up, kLatent, static_cast<int>(s.nope),
                                   s.query_latent, queue);
}

extern "C" int latent_attention_project(const LatentAttentionStep* step, void* stream) {
  return multiply_heads<StoreF32>(*step, step->output, step->value_up, static_cast<int>(step->value), kLatent,
                                  step->y, static_cast<cudaStream_t>(stream));
}
