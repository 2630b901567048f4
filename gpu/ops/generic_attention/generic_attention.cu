// Attention on tensor cores (mma.sync, sm_80 and later) for heads of any size.
//
// A block has 32 rows: the query heads that share a key head, of one token or of several neighbouring ones, so
// that keys are read once for all of them. It goes through its part of the context in tiles of 32 keys, whose
// copies run while the tile before is computed with. Its warps are two rows of four: for the scores the four
// share the keys, for the result the columns of values. fp8 rows stay as they are until a warp multiplies them.
#include <algorithm>

#include "../grouped_gemm/grouped_gemm.cuh"
#include "generic_attention.h"

namespace hybridseek {
namespace {

constexpr int kRows = 32, kKeys = 32, kThreads = 256, kWarps = kThreads / 32;
constexpr int kLeastShare = 256;  // keys of a part of a context
constexpr int kMostValues = 512, kMostWidth = 640;
constexpr float kLog2E = 1.4426950408889634f;
constexpr int kScorePitch = kKeys + 4, kWeightPitch = kKeys + 8;

struct Tile {
  int32_t sequence;  // below 0: none
  int32_t first;  // of the sequence's rows: its tokens times the query heads of a key head
};

// A launch: the plan, and its tables on the device.
struct Problem {
  GenericAttentionTensors t;
  int32_t heads, group_heads, splits, tokens;
  const int32_t *query_starts, *block_starts, *context_lengths;
  const Tile* tiles;
  // Of splits: results [splits, T, H, V] and the logarithms (base 2) of their sums [splits, T, H].
  float *parts, *part_sums;
  int32_t row_bytes, value_bytes;              // of a key's or value's columns
  int32_t padded;                              // columns of a key, up to a multiple of 32
  int32_t query_pitch, key_pitch, value_pitch;  // bytes of a row in shared memory
};

// ---- formats of the cache

// Bytes of a row in shared memory, so that the eight rows of an ldmatrix lie on distinct banks.
constexpr int pitch_of(int bytes, int beyond) { return (bytes + 127) / 128 * 128 + beyond; }
constexpr int kBf16Beyond = 80, kFp8Beyond = 48;

__device__ inline void transposed(uint32_t (&out)[4], const uint8_t* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}

// `load` gives 32 keys times 16 columns of values as operands: [step of 16 keys][half of the columns][two
// registers]; `store` says which columns a thread's results of the two halves are, two neighbours at a time.
struct Bf16Cache {
  using Keys = Bf16Weights;
  static constexpr int kBytes = 2;
  __device__ static void load(const uint8_t* values, int pitch, int lane, uint32_t (&out)[2][2][2]) {
#pragma unroll
    for (int step = 0; step < 2; step++) {
      uint32_t part[4];
      transposed(part, values + (step * 16 + lane % 16) * pitch + lane / 16 * 16);
      out[step][0][0] = part[0], out[step][0][1] = part[1];
      out[step][1][0] = part[2], out[step][1][1] = part[3];
    }
  }
  template <typename Store>
  __device__ static void store(int lane_part, const float* left, const float* right, Store store) {
    store(2 * lane_part, left[0], left[1]);
    store(8 + 2 * lane_part, right[0], right[1]);
  }
};

// e4m3. A 16-bit element of ldmatrix is two columns, which go to the two halves.
struct Fp8Cache {
  using Keys = Fp8Weights;
  static constexpr int kBytes = 1;
  __device__ static void load(const uint8_t* values, int pitch, int lane, uint32_t (&out)[2][2][2]) {
    uint32_t part[4];
    transposed(part, values + lane * pitch);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      out[i / 2][0][i % 2] = Fp8Weights::widened(__byte_perm(part[i], 0, 0x4240));
      out[i / 2][1][i % 2] = Fp8Weights::widened(__byte_perm(part[i], 0, 0x4341));
    }
  }
  template <typename Store>
  __device__ static void store(int lane_part, const float* left, const float* right, Store store) {
    store(4 * lane_part, left[0], right[0]);
    store(4 * lane_part + 2, left[1], right[1]);
  }
};

// ---- the kernel

__device__ inline void store_result(const Problem& p, int64_t at, float a, float b) {
  if (p.t.result_f32) {
    *reinterpret_cast<float2*>(static_cast<float*>(p.t.result) + at) = make_float2(a, b);
  } else {
    *reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(p.t.result) + at) = __floats2bfloat162_rn(a, b);
  }
}

// Units is the most units of 16 value columns that a warp has.
template <typename Cache, int Units>
__global__ void __launch_bounds__(kThreads) generic_attention(const Problem p) {
  extern __shared__ uint4 shared_memory[];
  auto* queries = reinterpret_cast<uint8_t*>(shared_memory);
  uint8_t* keys = queries + kRows * p.query_pitch;
  const bool own_values = p.t.values != p.t.keys;
  uint8_t* values = own_values ? keys + 2 * kKeys * p.key_pitch : keys;
  auto* scores = reinterpret_cast<float*>(keys + 2 * kKeys * (p.key_pitch + p.value_pitch));
  auto* weights = reinterpret_cast<__nv_bfloat16*>(scores + kRows * kScorePitch);
  auto* factors = reinterpret_cast<float*>(weights + kRows * kWeightPitch);

  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int lane_row = lane / 4, lane_part = lane % 4;
  const int warp_row = warp / 4 * 16, warp_column = warp % 4;
  const Tile tile = p.tiles[blockIdx.x];
  if (tile.sequence < 0) return;
  const int group = blockIdx.y, split = blockIdx.z;
  const int start = p.query_starts[tile.sequence], tokens = p.query_starts[tile.sequence + 1] - start;
  const int context = p.context_lengths[tile.sequence], rows = tokens * p.group_heads - tile.first;
  const int32_t* blocks = p.t.block_indices + p.block_starts[tile.sequence];
  // How many keys a row of the tile sees.
  auto visible = [&](int row) { return context - tokens + (tile.first + row) / p.group_heads + 1; };
  // Its vector among T x H.
  auto vector_of = [&](int row) {
    int packed = tile.first + row;
    return static_cast<int64_t>(start + packed / p.group_heads) * p.heads + group * p.group_heads +
           packed % p.group_heads;
  };
  int begin = 0, end = visible(min(rows, kRows) - 1);
  if (p.splits > 1) {
    int share = max(kLeastShare, ((context + p.splits - 1) / p.splits + kKeys - 1) / kKeys * kKeys);
    begin = split * share;
    end = min(end, begin + share);
    if (begin >= end) {
      if (thread < min(rows, kRows)) {
        p.part_sums[static_cast<int64_t>(split) * p.tokens * p.heads + vector_of(thread)] = -INFINITY;
      }
      return;
    }
  }

  for (int row = warp; row < kRows; row += kWarps) {
    int64_t vector = row < rows ? vector_of(row) : 0;
    for (int column = lane * 8; column < p.padded; column += 256) {
      bool there = row < rows && column < static_cast<int>(p.t.width), rest = column >= static_cast<int>(p.t.leading);
      const auto* from = static_cast<const __nv_bfloat16*>(p.t.query) + vector * p.t.leading + column;
      if (rest) {
        from = static_cast<const __nv_bfloat16*>(p.t.query_rest) + vector * (p.t.width - p.t.leading) + column -
               p.t.leading;
      }
      copy16(queries + row * p.query_pitch + column * 2, there ? from : p.t.query, there);
    }
  }
  const int groups = p.heads / p.group_heads;
  auto fetch = [&](int stage, int first) {
    // A warp copies four rows; four lanes look up where they lie.
    int key = first + warp + lane % 4 * kWarps, place = -1;
    if (lane < 4 && key < end) {
      int block_size = static_cast<int>(p.t.block_size);
      place = blocks[key / block_size] * block_size + key % block_size;
    }
#pragma unroll
    for (int i = 0; i < kKeys / kWarps; i++) {
      int at = __shfl_sync(0xffffffff, place, i), row = stage * kKeys + warp + i * kWarps;
      int64_t vector = static_cast<int64_t>(max(at, 0)) * groups + group;
      const auto* key_row = static_cast<const uint8_t*>(p.t.keys) + vector * p.row_bytes;
      for (int byte = lane * 16; byte < p.padded * Cache::kBytes; byte += 512) {
        bool there = at >= 0 && byte < p.row_bytes;
        copy16(keys + row * p.key_pitch + byte, key_row + (there ? byte : 0), there);
      }
      if (own_values) {
        const auto* value_row = static_cast<const uint8_t*>(p.t.values) + vector * p.value_bytes;
        for (int byte = lane * 16; byte < p.value_bytes; byte += 512) {
          copy16(values + row * p.value_pitch + byte, value_row + byte, at >= 0);
        }
      }
    }
    asm volatile("cp.async.commit_group;");
  };

  // Of the row thread / 8, in each of the eight threads that share it.
  const int of_row = thread / 8, of_part = thread % 8 * 4;
  const int row_end = of_row < rows ? visible(of_row) : 0;
  float top = -INFINITY, sum = 0;
  float results[Units][2][4] = {};

  fetch(0, begin);
  for (int first = begin, stage = 0; first < end; first += kKeys, stage ^= 1) {
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
    // Into the stage that was computed with before the barrier.
    if (first + kKeys < end) fetch(stage ^ 1, first + kKeys);

    float parts[2][4] = {};
    const uint8_t* query = queries + (warp_row + lane_row) * p.query_pitch + lane_part * 16;
    const uint8_t* key =
        keys + (stage * kKeys + warp_column * 8 + lane_row) * p.key_pitch + lane_part * 8 * Cache::kBytes;
    for (int column = 0; column < p.padded; column += 32) {
      uint4 upper = *reinterpret_cast<const uint4*>(query + column * 2);
      uint4 lower = *reinterpret_cast<const uint4*>(query + column * 2 + 8 * p.query_pitch);
      uint32_t b[4];
      Cache::Keys::load(key + column * Cache::kBytes, b);
      multiply(parts[0], upper.x, lower.x, upper.y, lower.y, b[0], b[1]);
      multiply(parts[1], upper.z, lower.z, upper.w, lower.w, b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int row = warp_row + lane_row + i / 2 * 8, column = warp_column * 8 + lane_part * 2 + i % 2;
      scores[row * kScorePitch + column] = parts[0][i] + parts[1][i];
    }
    __syncthreads();

    float4 given = *reinterpret_cast<const float4*>(scores + of_row * kScorePitch + of_part);
    float of_keys[] = {given.x, given.y, given.z, given.w};
    float highest = top;
    const float factor_of_scores = p.t.scale * p.t.cache_scale * kLog2E;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      of_keys[i] = first + of_part + i < min(row_end, end) ? of_keys[i] * factor_of_scores : -INFINITY;
      highest = fmaxf(highest, of_keys[i]);
    }
#pragma unroll
    for (int distance = 1; distance < 8; distance *= 2) {
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, distance));
    }
    // A row that sees nothing yet has no highest score.
    float base = highest == -INFINITY ? 0 : highest;
    float factor = exp2f(top - base), added = 0;
    top = highest;
    __nv_bfloat162 rounded[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      rounded[i] = __floats2bfloat162_rn(exp2f(of_keys[2 * i] - base), exp2f(of_keys[2 * i + 1] - base));
      added += __low2float(rounded[i]) + __high2float(rounded[i]);
      *reinterpret_cast<__nv_bfloat162*>(weights + of_row * kWeightPitch + of_part + 2 * i) = rounded[i];
    }
#pragma unroll
    for (int distance = 1; distance < 8; distance *= 2) added += __shfl_xor_sync(0xffffffff, added, distance);
    sum = sum * factor + added;
    if (of_part == 0) factors[of_row] = factor;
    __syncthreads();

    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      int row = warp_row + lane_row + i % 2 * 8, column = i / 4 * 16 + i / 2 % 2 * 8 + lane_part * 2;
      a[i / 4][i % 4] = *reinterpret_cast<const uint32_t*>(weights + row * kWeightPitch + column);
    }
    const float upper_factor = factors[warp_row + lane_row], lower_factor = factors[warp_row + lane_row + 8];
#pragma unroll
    for (int unit = 0; unit < Units; unit++) {
      int column = (warp_column + unit * 4) * 16;
      if (column < static_cast<int>(p.t.value_width)) {
        uint32_t b[2][2][2];
        int pitch = own_values ? p.value_pitch : p.key_pitch;
        Cache::load(values + stage * kKeys * pitch + column * Cache::kBytes, pitch, lane, b);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float(&r)[4] = results[unit][half];
          r[0] *= upper_factor, r[1] *= upper_factor, r[2] *= lower_factor, r[3] *= lower_factor;
#pragma unroll
          for (int step = 0; step < 2; step++) {
            multiply(r, a[step][0], a[step][1], a[step][2], a[step][3], b[step][half][0], b[step][half][1]);
          }
        }
      }
    }
  }

  __syncthreads();
  const int64_t vectors = static_cast<int64_t>(p.tokens) * p.heads;
  if (of_part == 0) {
    factors[of_row] = sum > 0 ? p.t.cache_scale / sum : 0;
    if (of_row < rows) {
      float logarithm = top + log2f(sum);
      if (p.splits > 1) {
        p.part_sums[split * vectors + vector_of(of_row)] = logarithm;
      } else if (p.t.log_sum_exp != nullptr) {
        p.t.log_sum_exp[vector_of(of_row)] = logarithm / kLog2E;
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = warp_row + lane_row + half * 8;
    if (row >= rows) continue;
    float factor = factors[row];
    int64_t vector = vector_of(row);
#pragma unroll
    for (int unit = 0; unit < Units; unit++) {
      int first = (warp_column + unit * 4) * 16;
      if (first >= static_cast<int>(p.t.value_width)) continue;
      Cache::store(lane_part, results[unit][0] + 2 * half, results[unit][1] + 2 * half,
                   [&](int column, float a, float b) {
                     int64_t at = vector * p.t.value_width + first + column;
                     if (p.splits > 1) {
                       *reinterpret_cast<float2*>(p.parts + split * vectors * p.t.value_width + at) =
                           make_float2(a * factor, b * factor);
                     } else {
                       store_result(p, at, a * factor, b * factor);
                     }
                   });
    }
  }
}

// A block for each vector: the parts of its context, weighted.
constexpr int kMergeThreads = 64;
__global__ void __launch_bounds__(kMergeThreads) generic_merge(const Problem p) {
  const int64_t vectors = static_cast<int64_t>(p.tokens) * p.heads, vector = blockIdx.x;
  float top = -INFINITY, sum = 0;
  for (int i = 0; i < p.splits; i++) top = fmaxf(top, p.part_sums[i * vectors + vector]);
  for (int i = 0; i < p.splits; i++) sum += exp2f(p.part_sums[i * vectors + vector] - top);
  const int width = static_cast<int>(p.t.value_width);
  for (int column = threadIdx.x * 2; column < width; column += 2 * kMergeThreads) {
    float a = 0, b = 0;
    for (int i = 0; i < p.splits; i++) {
      float weight = exp2f(p.part_sums[i * vectors + vector] - top) / sum;
      if (weight == 0) continue;  // a part that was not computed
      float2 part = *reinterpret_cast<const float2*>(p.parts + (i * vectors + vector) * width + column);
      a = fmaf(weight, part.x, a), b = fmaf(weight, part.y, b);
    }
    store_result(p, vector * width + column, a, b);
  }
  if (threadIdx.x == 0 && p.t.log_sum_exp != nullptr) p.t.log_sum_exp[vector] = (top + log2f(sum)) / kLog2E;
}

// ---- the host's side

size_t shared_bytes(const Problem& p) {
  size_t rows = size_t{kRows} * static_cast<size_t>(p.query_pitch) +
                size_t{2 * kKeys} * static_cast<size_t>(p.key_pitch + p.value_pitch);
  return rows + kRows * kScorePitch * sizeof(float) + kRows * kWeightPitch * sizeof(__nv_bfloat16) +
         kRows * sizeof(float);
}

Problem sizes_of(uint32_t width, uint32_t value_width, bool shared_values, bool fp8) {
  Problem p{};
  int element = fp8 ? 1 : 2, beyond = fp8 ? kFp8Beyond : kBf16Beyond;
  p.t.width = width, p.t.value_width = value_width;
  p.row_bytes = static_cast<int>(width) * element;
  p.value_bytes = static_cast<int>(value_width) * element;
  p.padded = (static_cast<int>(width) + 31) / 32 * 32;
  p.query_pitch = pitch_of(p.padded * 2, kBf16Beyond);
  p.key_pitch = pitch_of(p.padded * element, beyond);
  p.value_pitch = shared_values ? 0 : pitch_of(p.value_bytes, beyond);
  return p;
}

template <typename Cache, int Units>
cudaError_t launch(const Problem& p, unsigned tiles, unsigned groups, cudaStream_t stream) {
  auto* kernel = generic_attention<Cache, Units>;
  size_t bytes = shared_bytes(p);
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) return error;
  Problem copy = p;
  void* arguments[] = {&copy};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel),
                          dim3(tiles, groups, static_cast<unsigned>(p.splits)), dim3(kThreads), arguments, bytes,
                          stream);
}

template <typename Cache>
cudaError_t launch(const Problem& p, unsigned tiles, unsigned groups, cudaStream_t stream) {
  constexpr int kUnit = 4 * 16;
  return p.t.value_width <= 2 * kUnit ? launch<Cache, 2>(p, tiles, groups, stream)
                                      : launch<Cache, kMostValues / kUnit>(p, tiles, groups, stream);
}

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, which, device);
  return value;
}

}  // namespace
}  // namespace hybridseek

using namespace hybridseek;

extern "C" const char* generic_attention_refusal(uint32_t width, uint32_t value_width, int shared_values,
                                                 int cache_fp8) {
  if (width == 0 || width % 16 != 0 || width > kMostWidth || value_width == 0 || value_width % 16 != 0 ||
      value_width > kMostValues) {
    return "keys have at most 640 and values at most 512 columns, in multiples of 16";
  }
  size_t bytes = shared_bytes(sizes_of(width, value_width, shared_values != 0, cache_fp8 != 0));
  if (bytes > static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))) {
    return "this GPU has too little shared memory for so many columns";
  }
  return nullptr;
}

extern "C" int generic_attention_plan(const int32_t* query_starts, const int32_t* block_starts,
                                      const int32_t* context_lengths, uint32_t sequences, uint32_t heads,
                                      uint32_t groups, uint32_t value_width, void* tables, size_t table_bytes,
                                      size_t float_bytes, GenericAttentionPlan* plan) {
  if (sequences == 0 || groups == 0 || heads % groups != 0) return cudaErrorInvalidValue;
  auto group_heads = static_cast<int64_t>(heads / groups);
  auto rows_of = [&](uint32_t b) { return (query_starts[b + 1] - query_starts[b]) * group_heads; };
  // As many as sequences of any lengths can have, so that the launch is the same for all.
  uint64_t tiles = static_cast<uint64_t>(query_starts[sequences] * group_heads / kRows) + sequences;
  size_t words = 3 * size_t{sequences} + 2 + 2 * tiles;
  if (tiles > INT32_MAX || words * sizeof(int32_t) > table_bytes) return cudaErrorInvalidValue;
  auto* into = static_cast<int32_t*>(tables);
  into = std::copy(query_starts, query_starts + sequences + 1, into);
  into = std::copy(block_starts, block_starts + sequences + 1, into);
  into = std::copy(context_lengths, context_lengths + sequences, into);
  for (uint32_t b = 0; b < sequences; b++) {
    for (int64_t first = 0; first < rows_of(b); first += kRows) {
      *into++ = static_cast<int32_t>(b);
      *into++ = static_cast<int32_t>(first);
    }
  }
  std::fill(into, static_cast<int32_t*>(tables) + words, -1);
  plan->sequences = sequences;
  plan->tokens = static_cast<uint32_t>(query_starts[sequences]);
  plan->heads = heads;
  plan->groups = groups;
  plan->tiles = static_cast<uint32_t>(tiles);
  plan->staged_bytes = words * sizeof(int32_t);
  // Contexts are shared where there are fewer blocks than two for each multiprocessor.
  auto wanted = static_cast<uint64_t>(2 * attribute(cudaDevAttrMultiProcessorCount)) / std::max<uint64_t>(1, tiles * groups);
  uint64_t room = float_bytes / (sizeof(float) * plan->tokens * heads * (value_width + 1));
  plan->splits = static_cast<uint32_t>(std::max<uint64_t>(1, std::min(wanted, room)));
  return cudaSuccess;
}

extern "C" int generic_attention_run(const GenericAttentionPlan* plan, const GenericAttentionTensors* tensors,
                                     void* stream) {
  const GenericAttentionTensors& t = *tensors;
  Problem p = sizes_of(t.width, t.value_width, t.values == t.keys, t.cache_fp8 != 0);
  p.t = t;
  p.heads = static_cast<int32_t>(plan->heads);
  p.group_heads = static_cast<int32_t>(plan->heads / plan->groups);
  p.splits = static_cast<int32_t>(plan->splits);
  p.tokens = static_cast<int32_t>(plan->tokens);
  p.query_starts = static_cast<const int32_t*>(t.tables);
  p.block_starts = p.query_starts + plan->sequences + 1;
  p.context_lengths = p.block_starts + plan->sequences + 1;
  p.tiles = reinterpret_cast<const Tile*>(p.context_lengths + plan->sequences);
  size_t vectors = size_t{plan->tokens} * plan->heads;
  p.parts = static_cast<float*>(t.partials);
  p.part_sums = p.parts + plan->splits * vectors * t.value_width;
  auto queue = static_cast<cudaStream_t>(stream);
  cudaError_t error = t.cache_fp8 ? launch<Fp8Cache>(p, plan->tiles, plan->groups, queue)
                                  : launch<Bf16Cache>(p, plan->tiles, plan->groups, queue);
  if (error != cudaSuccess || plan->splits == 1) return error;
  generic_merge<<<static_cast<unsigned>(vectors), kMergeThreads, 0, queue>>>(p);
  return cudaGetLastError();
}
