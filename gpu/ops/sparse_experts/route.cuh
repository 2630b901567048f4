// From tokens to sorted hits: the router's logits, its choice, and the rows that each expert computes.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "../grouped_gemm/grouped_gemm.cuh"
#include "sparse_experts.h"

namespace hybridseek {

constexpr unsigned kAllLanes = 0xffffffff;
constexpr int kMostExperts = 256;
constexpr int kRouterWarps = 4, kRouterTokens = 8;
constexpr int kChoiceWarps = 4;
constexpr int kSortThreads = 256;

__device__ inline float sum_of_warp(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// logits [T, E] of x [T, D] in f32; and x in bf16, for the experts. A warp has `Experts` rows of the
// router and up to 8 tokens. A logit's bits depend neither on `Experts` nor on the other tokens.
template <int Experts>
__global__ void __launch_bounds__(kRouterWarps * 32)
    router_logits(const float* x, const float* router, int tokens, int hidden, int experts, float* logits,
                  __nv_bfloat16* rounded) {
  int lane = threadIdx.x % 32;
  int first = (blockIdx.x * kRouterWarps + threadIdx.x / 32) * Experts;
  int token0 = blockIdx.y * kRouterTokens;
  if (first >= experts) return;
  float sums[Experts][kRouterTokens] = {};
  for (int i = lane * 4; i < hidden; i += 128) {
    float4 rows[Experts];
#pragma unroll
    for (int e = 0; e < Experts; e++) {
      int row = min(first + e, experts - 1);
      rows[e] = *reinterpret_cast<const float4*>(router + static_cast<int64_t>(row) * hidden + i);
    }
#pragma unroll
    for (int t = 0; t < kRouterTokens; t++) {
      if (token0 + t >= tokens) break;
      int64_t at = static_cast<int64_t>(token0 + t) * hidden + i;
      float4 v = *reinterpret_cast<const float4*>(x + at);
      if (first == 0) {
        auto* pair = reinterpret_cast<__nv_bfloat162*>(rounded + at);
        pair[0] = __floats2bfloat162_rn(v.x, v.y);
        pair[1] = __floats2bfloat162_rn(v.z, v.w);
      }
#pragma unroll
      for (int e = 0; e < Experts; e++) {
        float sum = sums[e][t];
        sum = fmaf(v.x, rows[e].x, sum);
        sum = fmaf(v.y, rows[e].y, sum);
        sum = fmaf(v.z, rows[e].z, sum);
        sums[e][t] = fmaf(v.w, rows[e].w, sum);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < Experts; e++) {
#pragma unroll
    for (int t = 0; t < kRouterTokens; t++) {
      float sum = sum_of_warp(sums[e][t]);
      if (lane == 0 && first + e < experts && token0 + t < tokens) {
        logits[static_cast<int64_t>(token0 + t) * experts + first + e] = sum;
      }
    }
  }
}

// Softmax over all experts and the choice of k, a warp for each token.
__global__ void __launch_bounds__(kChoiceWarps * 32)
    choose_experts(const float* logits, int tokens, const SparseExpertsShape shape, int32_t* chosen,
                   float* weights) {
  __shared__ float all_scores[kChoiceWarps][kMostExperts];
  __shared__ float all_bests[kChoiceWarps][kMostExperts];
  __shared__ bool all_kept[kChoiceWarps][kMostExperts];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int token = blockIdx.x * kChoiceWarps + warp;
  if (token >= tokens) return;
  float* scores = all_scores[warp];
  int experts = shape.experts, groups = shape.groups, k = shape.k;

  const float* row = logits + static_cast<int64_t>(token) * experts;
  float highest = -INFINITY;
  for (int e = lane; e < experts; e += 32) highest = fmaxf(highest, row[e]);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, distance));
  }
  float sum = 0;
  for (int e = lane; e < experts; e += 32) {
    float power = expf(row[e] - highest);
    scores[e] = power;
    sum += power;
  }
  sum = sum_of_warp(sum);
  for (int e = lane; e < experts; e += 32) scores[e] /= sum;
  __syncwarp();

  if (static_cast<int>(shape.top_groups) < groups) {
    // A group's score is its best expert's; those that fewer than top_groups others precede are kept.
    int size = experts / groups;
    float* bests = all_bests[warp];
    bool* kept = all_kept[warp];
    for (int g = lane; g < groups; g += 32) {
      float best = -1;
      for (int e = g * size; e < (g + 1) * size; e++) best = fmaxf(best, scores[e]);
      bests[g] = best;
    }
    __syncwarp();
    for (int g = lane; g < groups; g += 32) {
      int before = 0;
      for (int h = 0; h < groups; h++) before += bests[h] > bests[g] || (bests[h] == bests[g] && h < g);
      kept[g] = before < static_cast<int>(shape.top_groups);
    }
    __syncwarp();
    for (int e = lane; e < experts; e += 32) {
      if (!kept[e / size]) scores[e] = -1;
    }
    __syncwarp();
  }

  float total = 0;
  int64_t at = static_cast<int64_t>(token) * k;
  for (int j = 0; j < k; j++) {
    float best = -2;
    int index = kMostExperts;
    for (int e = lane; e < experts; e += 32) {
      if (scores[e] > best) best = scores[e], index = e;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      float other = __shfl_xor_sync(kAllLanes, best, distance);
      int other_index = __shfl_xor_sync(kAllLanes, index, distance);
      if (other > best || (other == best && other_index < index)) best = other, index = other_index;
    }
    // Scores that are no numbers win against nothing; an index must be one all the same.
    if (index >= experts) index = j;
    if (lane == 0) chosen[at + j] = index, weights[at + j] = best, scores[index] = -2;
    total += best;
    __syncwarp();
  }
  float divisor = shape.normalize ? total : 1.0f;
  for (int j = lane; j < k; j += 32) weights[at + j] = weights[at + j] / divisor * shape.scaling;
}

// Sorts the hits (token t's choice j is hit t * k + j) by expert and then by token, a block for each held
// expert. `tokens_of` [rows]: the token of every row; `places` [T * K]: the row of every hit, -1 if its
// expert is not held. Tiles cut each expert's rows into pieces of `tile_rows`.
__global__ void __launch_bounds__(kSortThreads)
    sort_hits(const int32_t* chosen, int hits, int k, int first, int held, int tile_rows, int32_t* starts,
              int32_t* tokens_of, int32_t* places, RowTile* tiles, int32_t* tile_count) {
  __shared__ int32_t counts[kMostExperts];
  __shared__ int32_t of_warps[kSortThreads / 32];
  __shared__ int32_t row_begin, tile_begin;
  int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  int expert = blockIdx.x;
  counts[thread] = 0;
  __syncthreads();
  for (int i = thread; i < hits; i += kSortThreads) {
    int local = chosen[i] - first;
    if (local >= 0 && local < held) {
      atomicAdd(&counts[local], 1);
    } else if (expert == 0) {
      places[i] = -1;
    }
  }
  __syncthreads();
  auto tiles_of = [&](int e) { return (counts[e] + tile_rows - 1) / tile_rows; };
  if (warp == 0) {
    int rows = 0, before = 0;
    for (int e = lane; e < expert; e += 32) rows += counts[e], before += tiles_of(e);
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      rows += __shfl_xor_sync(kAllLanes, rows, distance);
      before += __shfl_xor_sync(kAllLanes, before, distance);
    }
    if (lane == 0) {
      row_begin = starts[expert] = rows;
      tile_begin = before;
      if (expert == held - 1) {
        starts[held] = rows + counts[expert];
        *tile_count = before + tiles_of(expert);
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < tiles_of(expert); i += kSortThreads) {
    tiles[tile_begin + i] = {expert, i * tile_rows};
  }
  int row = row_begin;
  for (int base = 0; base < hits; base += kSortThreads) {
    int i = base + thread;
    bool mine = i < hits && chosen[i] - first == expert;
    unsigned lanes = __ballot_sync(kAllLanes, mine);
    if (lane == 0) of_warps[warp] = __popc(lanes);
    __syncthreads();
    int before = __popc(lanes & ((1u << lane) - 1)), all = 0;
#pragma unroll
    for (int w = 0; w < kSortThreads / 32; w++) {
      if (w < warp) before += of_warps[w];
      all += of_warps[w];
    }
    if (mine) tokens_of[row + before] = i / k, places[i] = row + before;
    row += all;
    __syncthreads();
  }
}

// y [T, D]: the results of a token's hits, weighed and added up in the order of choice.
__global__ void __launch_bounds__(256)
    combine(const float* results, const int32_t* places, const float* weights, int k, int hidden, float* y) {
  int64_t token = blockIdx.x;
  int column = (blockIdx.y * 256 + threadIdx.x) * 4;
  if (column >= hidden) return;
  float4 sum = make_float4(0, 0, 0, 0);
  for (int j = 0; j < k; j++) {
    int64_t place = places[token * k + j];
    if (place < 0) continue;
    float weight = weights[token * k + j];
    float4 v = *reinterpret_cast<const float4*>(results + place * hidden + column);
    sum.x = fmaf(weight, v.x, sum.x);
    sum.y = fmaf(weight, v.y, sum.y);
    sum.z = fmaf(weight, v.z, sum.z);
    sum.w = fmaf(weight, v.w, sum.w);
  }
  *reinterpret_cast<float4*>(y + token * hidden + column) = sum;
}

}  // namespace hybridseek
