// A program on the emulated CUDA runtime: what nvcc makes of ordinary host code must find its
// functions.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <vector>

__device__ int visits;
__constant__ float table[4];

__global__ void scale(float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= table[i & 3];
  atomicAdd(&visits, 1);
}

/// Every block adds up the others' numbers after all are written.
__global__ void sums_of_all(int* values, int* sums) {
  values[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  cooperative_groups::this_grid().sync();
  int sum = 0;
  for (unsigned b = 0; b < gridDim.x; b++) sum += values[b];
  sums[blockIdx.x] = sum;
}

__global__ void big_shared(int* out) {
  extern __shared__ int shared[];
  shared[threadIdx.x * 256] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = shared[(63 - threadIdx.x) * 256];
}

__global__ void beyond(int* x, int at) { x[at] = 1; }

namespace {

int failures = 0;

void expect(bool good, const char* what) {
  std::printf("%s %s\n", good ? "ok" : "FAILED", what);
  failures += !good;
}

}  // namespace

int main() {
  constexpr int n = 100;
  std::vector<float> x(n);
  for (int i = 0; i < n; i++) x[i] = static_cast<float>(i);
  float factors[4] = {1, 2, 3, 4};
  float* device = nullptr;
  cudaStream_t stream;
  expect(cudaStreamCreate(&stream) == 0 && cudaMalloc(&device, n * 4) == 0, "allocation");
  cudaMemcpyAsync(device, x.data(), n * 4, cudaMemcpyHostToDevice, stream);
  expect(cudaMemcpyToSymbol(table, factors, sizeof factors) == 0, "a constant");
  scale<<<4, 32, 0, stream>>>(device, n);
  expect(cudaGetLastError() == 0, "a launch");
  cudaLaunchConfig_t config = {};
  config.gridDim = 4;
  config.blockDim = 32;
  config.stream = stream;
  expect(cudaLaunchKernelEx(&config, scale, device, n) == 0, "cudaLaunchKernelEx");
  std::vector<float> y(n);
  cudaMemcpyAsync(y.data(), device, n * 4, cudaMemcpyDeviceToHost, stream);
  cudaStreamSynchronize(stream);
  bool good = true;
  for (int i = 0; i < n; i++) good &= y[i] == x[i] * factors[i & 3] * factors[i & 3];
  expect(good, "results");
  int count = 0;
  cudaMemcpyFromSymbol(&count, visits, sizeof count);
  expect(count == 2 * 4 * 32, "a variable of the device, by atomics");

  int *values, *sums;
  cudaMalloc(&values, 16);
  cudaMalloc(&sums, 16);
  void* arguments[] = {&values, &sums};
  expect(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(sums_of_all), 4, 32, arguments, 0,
                                     stream) == 0,
         "a cooperative launch");
  int got[4];
  cudaMemcpy(got, sums, 16, cudaMemcpyDeviceToHost);
  expect(got[0] == 10 && got[3] == 10, "its grid barrier");
  expect(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(sums_of_all), 100000, 32, arguments, 0,
                                     stream) == cudaErrorCooperativeLaunchTooLarge,
         "too large a cooperative launch is refused");

  int* out;
  cudaMalloc(&out, 256);
  big_shared<<<1, 64, 65536>>>(out);
  expect(cudaGetLastError() == cudaErrorInvalidValue, "64 KiB of shared memory need an attribute");
  cudaFuncSetAttribute(big_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, 65536);
  big_shared<<<1, 64, 65536>>>(out);
  int reversed[64];
  cudaMemcpy(reversed, out, 256, cudaMemcpyDeviceToHost);
  expect(reversed[0] == 63 && reversed[63] == 0, "and work with it");
  int blocks = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, big_shared, 64, 65536);
  expect(blocks == 2, "occupancy");

  beyond<<<1, 1>>>(out, 64);
  expect(cudaGetLastError() == cudaErrorIllegalAddress, "a write beyond an allocation");
  expect(cudaDeviceSynchronize() == cudaErrorIllegalAddress, "stays an error");
  cudaDeviceReset();
  cudaFree(out);
  beyond<<<1, 1>>>(out, 0);
  expect(cudaGetLastError() == cudaErrorIllegalAddress, "a use after free");
  cudaDeviceReset();
  return failures != 0;
}
