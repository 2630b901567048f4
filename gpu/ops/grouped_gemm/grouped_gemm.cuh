// Products of groups of rows with a matrix each: y = a W^T on tensor cores (mma.sync, sm_80 and later).
//
// Groups are experts with the tokens that chose them, or heads with all tokens. Rows of `a` are bf16; W
// [n, k] is bf16, int8, int4 or fp8 and is used as it is stored: levels are exact in bf16, a block of 32
// is added up in f32 and meets its scale there, so that only activations are ever rounded.
//
// A thread takes eight neighbouring elements of a row where mma wants two times four that lie apart. Both
// operands do so alike, and the order of a sum over k is free; so that one load of 4, 8 or 16 bytes gives
// what two instructions need, in every format.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace hybridseek {

// Rows of a group that one block computes: the first, counted from the group's own.
struct RowTile {
  int32_t group;
  int32_t first;
};

struct GroupedGemm {
  // With tiles, the rows of group g are starts[g] ... starts[g + 1] - 1 and blocks take tiles below
  // *tile_count. Without, all of gridDim.z groups have the rows 0 ... rows - 1.
  const RowTile* tiles;
  const int32_t* tile_count;
  const int32_t* starts;
  int32_t rows;
  // Row r of group g is a + row_of[r] * a_row + g * a_group, in elements; row_of null: r itself.
  const __nv_bfloat16* a;
  const int32_t* row_of;
  int64_t a_row, a_group;
  // [groups, n, k], rows 16-byte aligned. Scales: f16 [groups, n, k/32] for int8 and int4, f32 [groups, n]
  // for fp8.
  const uint8_t* weights;
  const void* scales;
  int32_t n, k;  // k is a multiple of 64, or of 8 where weights are bf16; n is even
  // Row r of group g is out + r * out_row + g * out_group, in elements.
  void* out;
  int64_t out_row, out_group;
};

// ---- formats of weights: their bytes, and eight elements as four registers of two bf16

__device__ inline uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
constexpr uint32_t kOnes = 0x3f803f80;

struct Bf16Weights {
  static constexpr int kBits = 16;
  static constexpr bool kBlockScales = false, kRowScales = false;
  __device__ static void load(const uint8_t* shared, uint32_t (&out)[4]) {
    uint4 word = *reinterpret_cast<const uint4*>(shared);
    out[0] = word.x, out[1] = word.y, out[2] = word.z, out[3] = word.w;
  }
};

// Levels 0 ... 15 around 8, low nibble first.
struct Int4Weights {
  static constexpr int kBits = 4;
  static constexpr bool kBlockScales = true, kRowScales = false;
  __device__ static void load(const uint8_t* shared, uint32_t (&out)[4]) {
    uint32_t word = *reinterpret_cast<const uint32_t*>(shared);
    uint32_t even = word & 0x0f0f0f0f, odd = (word >> 4) & 0x0f0f0f0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      // Elements 2i and 2i + 1 into the low bytes of two halves: 128 + level, of which 136 is taken.
      uint32_t pair = __byte_perm(even, odd, static_cast<uint32_t>(i | (i + 4) << 8)) & 0x000f000f;
      out[i] = bf16x2_fma(pair | 0x43004300, kOnes, 0xc308c308);
    }
  }
};

// Two bytes of a word, as the low bytes of two halves.
__device__ inline uint32_t spread(uint32_t word, int half) {
  return __byte_perm(word, 0, half == 0 ? 0x4140 : 0x4342);
}

// Levels 0 ... 255 around 128.
struct Int8Weights {
  static constexpr int kBits = 8;
  static constexpr bool kBlockScales = true, kRowScales = false;
  __device__ static void load(const uint8_t* shared, uint32_t (&out)[4]) {
    uint2 words = *reinterpret_cast<const uint2*>(shared);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      uint32_t pair = spread(i < 2 ? words.x : words.y, i & 1);
      // 128 + the low seven bits; then 128 or, without the eighth bit, 256 is taken.
      out[i] = bf16x2_fma((pair & 0x007f007f) | 0x43004300, kOnes, (pair & 0x00800080) ^ 0xc380c380);
    }
  }
};

// e4m3, whose 0x7f and 0xff, which are no numbers, count as 480 and -480.
struct Fp8Weights {
  static constexpr int kBits = 8;
  static constexpr bool kBlockScales = false, kRowScales = true;
  // Two elements in the low bytes of two halves, as bf16.
  __device__ static uint32_t widened(uint32_t pair) {
    // Exponent and fraction where bf16 has them; 2^120 makes good for the other bias.
    uint32_t small = (pair & 0x00800080) << 8 | (pair & 0x007f007f) << 4;
    return bf16x2_fma(small, 0x7b807b80, 0x80008000);
  }
  __device__ static void load(const uint8_t* shared, uint32_t (&out)[4]) {
    uint2 words = *reinterpret_cast<const uint2*>(shared);
#pragma unroll
    for (int i = 0; i < 4; i++) out[i] = widened(spread(i < 2 ? words.x : words.y, i & 1));
  }
};

// ---- what becomes of two neighbouring columns of a row

struct StoreF32 {
  __device__ static void store(const GroupedGemm& p, int64_t row, int column, float a, float b) {
    *reinterpret_cast<float2*>(static_cast<float*>(p.out) + row + column) = make_float2(a, b);
  }
};

struct StoreBf16 {
  __device__ static void store(const GroupedGemm& p, int64_t row, int column, float a, float b) {
    *reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(p.out) + row + column) =
        __floats2bfloat162_rn(a, b);
  }
};

// Rows of W are gate and up in turn: one value of bf16, at half the column.
struct StoreSwiGlu {
  __device__ static void store(const GroupedGemm& p, int64_t row, int column, float gate, float up) {
    static_cast<__nv_bfloat16*>(p.out)[row + column / 2] =
        __float2bfloat16_rn(gate / (1.0f + __expf(-gate)) * up);
  }
};

// ---- tiles

// Few rows: memory decides, so rows of W are read far along k. A weight is read once for 16 rows.
struct FewRows {
  static constexpr int kRows = 16, kColumns = 64, kDepth = 128, kWarpRows = 16, kWarpColumns = 16;
};
// Many rows: arithmetic decides.
struct ManyRows {
  static constexpr int kRows = 64, kColumns = 128, kDepth = 64, kWarpRows = 32, kWarpColumns = 64;
};

constexpr int kGemmThreads = 128;

template <typename Weights, typename Tile>
struct GemmShared {
  // Bytes of a row of a stage. What is added keeps the loads of a warp on distinct banks.
  static constexpr int kAPitch = Tile::kDepth * 2 + 64;
  static constexpr int kWeightBytes = Tile::kDepth * Weights::kBits / 8;
  static constexpr int kWeightPitch = kWeightBytes + 4 * Weights::kBits;
  static constexpr int kScaleBytes = Weights::kBlockScales ? Tile::kDepth / 32 * 2 : 0;
  static constexpr int kStage =
      Tile::kRows * kAPitch + Tile::kColumns * (kWeightPitch + kScaleBytes);
  // As many as leave room for two blocks on a multiprocessor of sm_80, and for one on sm_86.
  static constexpr int kMost = 80 << 10;
  static constexpr int kStages = 4 * kStage <= kMost ? 4 : 3 * kStage <= kMost ? 3 : 2;
  static constexpr int kBytes = kStages * kStage;
};

// Copies to shared memory; `bytes` of 0 writes zeros.
__device__ inline void copy16(uint8_t* shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(there ? 16 : 0));
}
__device__ inline void copy4(uint8_t* shared, const void* global, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(there ? 4 : 0));
}

__device__ inline void multiply(float (&sum)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <typename Weights, typename Tile, typename Result>
__global__ void __launch_bounds__(kGemmThreads) grouped_gemm(const GroupedGemm p) {
  using Shared = GemmShared<Weights, Tile>;
  constexpr int kRowMmas = Tile::kWarpRows / 16, kColumnMmas = Tile::kWarpColumns / 8;
  constexpr int kWarpsAlong = Tile::kColumns / Tile::kWarpColumns;
  extern __shared__ uint4 shared_memory[];
  auto* shared = reinterpret_cast<uint8_t*>(shared_memory);

  int group = blockIdx.z, begin = 0, first = blockIdx.x * Tile::kRows, end = p.rows;
  if (p.tiles != nullptr) {
    if (static_cast<int>(blockIdx.x) >= *p.tile_count) return;
    RowTile tile = p.tiles[blockIdx.x];
    group = tile.group, begin = p.starts[group], end = p.starts[group + 1];
    first = begin + tile.first;
  }
  const int column0 = blockIdx.y * Tile::kColumns;
  const int64_t row_bytes = static_cast<int64_t>(p.k) * Weights::kBits / 8;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int lane_row = lane / 4, lane_part = lane % 4;
  const int warp_row = warp / kWarpsAlong * Tile::kWarpRows;
  const int warp_column = warp % kWarpsAlong * Tile::kWarpColumns;
  const __nv_bfloat16* a = p.a + group * p.a_group;
  const uint8_t* weights = p.weights + group * p.n * row_bytes;

  auto a_of = [&](int stage) { return shared + stage * Shared::kStage; };
  auto weights_of = [&](int stage) { return a_of(stage) + Tile::kRows * Shared::kAPitch; };
  auto scales_of = [&](int stage) { return weights_of(stage) + Tile::kColumns * Shared::kWeightPitch; };

  auto fetch = [&](int stage, int k0) {
    constexpr int kAChunks = Tile::kDepth / 8;
    for (int i = thread; i < Tile::kRows * kAChunks; i += kGemmThreads) {
      int row = i / kAChunks, k = k0 + i % kAChunks * 8, at = first + row;
      bool there = at < end && k < p.k;
      int64_t from = !there ? 0 : p.row_of != nullptr ? p.row_of[at] : at;
      copy16(a_of(stage) + row * Shared::kAPitch + i % kAChunks * 16,
             a + (there ? from * p.a_row + k : 0), there);
    }
    constexpr int kChunks = Shared::kWeightBytes / 16;
    for (int i = thread; i < Tile::kColumns * kChunks; i += kGemmThreads) {
      int column = column0 + i / kChunks;
      int64_t at = static_cast<int64_t>(k0) * Weights::kBits / 8 + i % kChunks * 16;
      bool there = column < p.n && at < row_bytes;
      copy16(weights_of(stage) + i / kChunks * Shared::kWeightPitch + i % kChunks * 16,
             weights + (there ? column * row_bytes + at : 0), there);
    }
    if constexpr (Weights::kBlockScales) {
      // Two scales at a time: k is a multiple of 64.
      constexpr int kPairs = Tile::kDepth / 64;
      const auto* scales = static_cast<const __half*>(p.scales);
      int64_t row = static_cast<int64_t>(group) * p.n * (p.k / 32);
      for (int i = thread; i < Tile::kColumns * kPairs; i += kGemmThreads) {
        int column = column0 + i / kPairs, k = k0 + i % kPairs * 64;
        bool there = column < p.n && k < p.k;
        int64_t at = there ? row + static_cast<int64_t>(column) * (p.k / 32) + k / 32 : 0;
        copy4(scales_of(stage) + i * 4, scales + at, there);
      }
    }
  };

  float sums[kRowMmas][kColumnMmas][4] = {};
  auto compute = [&](int stage) {
#pragma unroll
    for (int block = 0; block < Tile::kDepth / 32; block++) {
      uint4 upper[kRowMmas], lower[kRowMmas];
#pragma unroll
      for (int m = 0; m < kRowMmas; m++) {
        const uint8_t* row = a_of(stage) + (warp_row + m * 16 + lane_row) * Shared::kAPitch +
                             block * 64 + lane_part * 16;
        upper[m] = *reinterpret_cast<const uint4*>(row);
        lower[m] = *reinterpret_cast<const uint4*>(row + 8 * Shared::kAPitch);
      }
#pragma unroll
      for (int n = 0; n < kColumnMmas; n++) {
        int column = warp_column + n * 8;
        uint32_t b[4];
        Weights::load(weights_of(stage) + (column + lane_row) * Shared::kWeightPitch +
                          block * 4 * Weights::kBits + lane_part * Weights::kBits,
                      b);
        float scale[2];
        if constexpr (Weights::kBlockScales) {
          const auto* scales = reinterpret_cast<const __half*>(scales_of(stage)) +
                               (column + lane_part * 2) * (Tile::kDepth / 32) + block;
          scale[0] = __half2float(scales[0]), scale[1] = __half2float(scales[Tile::kDepth / 32]);
        }
#pragma unroll
        for (int m = 0; m < kRowMmas; m++) {
          float part[4] = {};
          float(&sum)[4] = Weights::kBlockScales ? part : sums[m][n];
          multiply(sum, upper[m].x, lower[m].x, upper[m].y, lower[m].y, b[0], b[1]);
          multiply(sum, upper[m].z, lower[m].z, upper[m].w, lower[m].w, b[2], b[3]);
          if constexpr (Weights::kBlockScales) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][n][i] += part[i] * scale[i % 2];
          }
        }
      }
    }
  };

  const int steps = (p.k + Tile::kDepth - 1) / Tile::kDepth;
  for (int step = 0; step < Shared::kStages - 1; step++) {
    if (step < steps) fetch(step, step * Tile::kDepth);
    asm volatile("cp.async.commit_group;");
  }
  for (int step = 0; step < steps; step++) {
    asm volatile("cp.async.wait_group %0;" ::"n"(Shared::kStages - 2));
    __syncthreads();
    // Into the stage that was computed with before the barrier.
    int next = step + Shared::kStages - 1;
    if (next < steps) fetch(next % Shared::kStages, next * Tile::kDepth);
    asm volatile("cp.async.commit_group;");
    compute(step % Shared::kStages);
  }

#pragma unroll
  for (int m = 0; m < kRowMmas; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first + warp_row + m * 16 + half * 8 + lane_row;
      if (row >= end) continue;
#pragma unroll
      for (int n = 0; n < kColumnMmas; n++) {
        int column = column0 + warp_column + n * 8 + lane_part * 2;
        if (column >= p.n) continue;
        float left = sums[m][n][half * 2], right = sums[m][n][half * 2 + 1];
        if constexpr (Weights::kRowScales) {
          const float* scales = static_cast<const float*>(p.scales) + static_cast<int64_t>(group) * p.n;
          left *= scales[column], right *= scales[column + 1];
        }
        Result::store(p, row * p.out_row + group * p.out_group, column, left, right);
      }
    }
  }
}

// Launches for `tiles` row tiles of each of `groups` groups (1 where the tiles name theirs).
template <typename Weights, typename Tile, typename Result>
cudaError_t launch_grouped_gemm(const GroupedGemm& problem, unsigned tiles, unsigned groups,
                                cudaStream_t stream) {
  using Shared = GemmShared<Weights, Tile>;
  auto* kernel = grouped_gemm<Weights, Tile, Result>;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           Shared::kBytes);
  if (error != cudaSuccess) return error;
  // Neighbouring blocks share the columns of W, which the cache of the device then holds.
  dim3 grid(tiles, (problem.n + Tile::kColumns - 1) / Tile::kColumns, groups);
  GroupedGemm copy = problem;
  void* arguments[] = {&copy};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(kGemmThreads), arguments,
                          Shared::kBytes, stream);
}

}  // namespace hybridseek
