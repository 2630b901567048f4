#include "weights.h"

#include <algorithm>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

constexpr int kThreads = 256;

template <typename From>
__global__ void __launch_bounds__(kThreads) round_all(const From* from, size_t count, __nv_bfloat16* to) {
  size_t stride = size_t{gridDim.x} * kThreads;
  for (size_t i = size_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    to[i] = __float2bfloat16_rn(static_cast<float>(from[i]));
  }
}

}  // namespace

extern "C" int weights_to_bf16(const void* from, int half, size_t count, void* to, void* stream) {
  auto blocks = static_cast<unsigned>(std::min<size_t>((count + kThreads - 1) / kThreads, 1 << 16));
  auto* target = static_cast<__nv_bfloat16*>(to);
  auto queue = static_cast<cudaStream_t>(stream);
  if (half) {
    round_all<<<blocks, kThreads, 0, queue>>>(static_cast<const __half*>(from), count, target);
  } else {
    round_all<<<blocks, kThreads, 0, queue>>>(static_cast<const float*>(from), count, target);
  }
  return cudaGetLastError();
}
