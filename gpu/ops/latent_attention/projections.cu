// Around the attention: the cache's new rows, and the way into and out of the latent space.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "../grouped_gemm/grouped_gemm.cuh"
#include "latent_attention.h"

namespace hybridseek {
namespace {

constexpr int kThreads = 128;

// Rotates the pair (a, b), which are neighbours, by a token's angle.
__device__ float2 rotated(const float* pair, float cos, float sin) {
  return make_float2(pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
}

// A block for each token.
template <typename Cache>
__global__ void __launch_bounds__(kThreads)
    append_rows(const float* latent, const float* norm_weight, const float* cos, const float* sin,
                const int32_t* slots, int rank, int rotary, float epsilon, Cache* cache) {
  __shared__ float of_warps[kThreads / 32];
  int64_t token = blockIdx.x;
  int thread = threadIdx.x;
  const float* row = latent + token * (rank + rotary);
  Cache* into = cache + static_cast<int64_t>(slots[token]) * (rank + rotary);
  float squares = 0;
  for (int column = thread; column < rank; column += kThreads) squares = fmaf(row[column], row[column], squares);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    squares += __shfl_xor_sync(0xffffffff, squares, distance);
  }
  if (thread % 32 == 0) of_warps[thread / 32] = squares;
  __syncthreads();
  squares = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; warp++) squares += of_warps[warp];
  float factor = 1.0f / sqrtf(squares / static_cast<float>(rank) + epsilon);
  for (int column = thread; column < rank; column += kThreads) {
    into[column] = Cache(row[column] * factor * norm_weight[column]);
  }
  if (thread < rotary / 2) {
    int64_t angle = token * (rotary / 2) + thread;
    float2 key = rotated(row + rank + 2 * thread, cos[angle], sin[angle]);
    into[rank + 2 * thread] = Cache(key.x);
    into[rank + 2 * thread + 1] = Cache(key.y);
  }
}

// A block for each head of each token.
__global__ void __launch_bounds__(kThreads)
    split_queries(const float* query, const float* cos, const float* sin, int nope, int rotary,
                  __nv_bfloat16* query_nope, __nv_bfloat16* query_rotary) {
  int64_t token = blockIdx.x, at = token * gridDim.y + blockIdx.y;
  const float* row = query + at * (nope + rotary);
  for (int i = threadIdx.x; i < nope; i += kThreads) {
    query_nope[at * nope + i] = __float2bfloat16_rn(row[i]);
  }
  int pair = threadIdx.x;
  if (pair < rotary / 2) {
    int64_t angle = token * (rotary / 2) + pair;
    float2 turned = rotated(row + nope + 2 * pair, cos[angle], sin[angle]);
    reinterpret_cast<__nv_bfloat162*>(query_rotary + at * rotary)[pair] =
        __floats2bfloat162_rn(turned.x, turned.y);
  }
}

// A block for each row of each head. W_UK's rows become columns; this runs once, when a model is opened.
template <typename From>
__global__ void __launch_bounds__(kThreads)
    pack_kv_b(const From* kv_b, int nope, int value, int rank, __nv_bfloat16* key_up, __nv_bfloat16* value_up) {
  int row = blockIdx.x;
  int64_t head = blockIdx.y;
  const From* from = kv_b + (head * (nope + value) + row) * rank;
  for (int c = threadIdx.x; c < rank; c += kThreads) {
    __nv_bfloat16 element = __float2bfloat16_rn(static_cast<float>(from[c]));
    if (row < nope) {
      key_up[(head * rank + c) * nope + row] = element;
    } else {
      value_up[(head * value + row - nope) * rank + c] = element;
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
  append_rows<<<s.tokens, kThreads, 0, stream>>>(s.latent, s.norm_weight, s.cos, s.sin, s.slots,
                                                 static_cast<int>(s.rank), static_cast<int>(s.rotary), s.epsilon,
                                                 static_cast<Cache*>(s.cache));
}

}  // namespace
}  // namespace hybridseek

using namespace hybridseek;

extern "C" int latent_attention_pack(const void* kv_b, int half, uint32_t heads, uint32_t nope,
                                     uint32_t value, uint32_t latent, void* key_up, void* value_up, void* stream) {
  dim3 grid(nope + value, heads);
  auto queue = static_cast<cudaStream_t>(stream);
  auto *keys = static_cast<__nv_bfloat16*>(key_up), *values = static_cast<__nv_bfloat16*>(value_up);
  auto n = static_cast<int>(nope), v = static_cast<int>(value), c = static_cast<int>(latent);
  if (half) {
    pack_kv_b<<<grid, kThreads, 0, queue>>>(static_cast<const __half*>(kv_b), n, v, c, keys, values);
  } else {
    pack_kv_b<<<grid, kThreads, 0, queue>>>(static_cast<const float*>(kv_b), n, v, c, keys, values);
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
      s.query, s.cos, s.sin, static_cast<int>(s.nope), static_cast<int>(s.rotary), static_cast<__nv_bfloat16*>(s.query_nope),
      static_cast<__nv_bfloat16*>(s.query_rotary));
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  return multiply_heads<StoreBf16>(s, s.query_nope, s.key_up, static_cast<int>(s.rank), static_cast<int>(s.nope),
                                   s.query_latent, queue);
}

extern "C" int latent_attention_project(const LatentAttentionStep* step, void* stream) {
  return multiply_heads<StoreF32>(*step, step->output, step->value_up, static_cast<int>(step->value),
                                  static_cast<int>(step->rank),
                                  step->y, static_cast<cudaStream_t>(stream));
}
