// In place of CUDA, where the library is built without its kernels.
#include <cstdlib>

#include "../ops/cuda_kernel.h"

namespace hybridseek {

namespace cuda {

constexpr int kNotSupported = 801;

void open() {
  throw Error(kOrtNotImplemented, "Cannot use CUDA: this library was built without its kernels.");
}
void check(int code, const char*) {
  if (code != 0) open();
}
int device() { open(), std::abort(); }
int attribute(Attribute) { return device(); }

}  // namespace cuda

}  // namespace hybridseek

using hybridseek::cuda::kNotSupported;

extern "C" {

int cudaMalloc(void**, size_t) { return kNotSupported; }
int cudaFree(void*) { return kNotSupported; }
int cudaMallocHost(void**, size_t) { return kNotSupported; }
int cudaFreeHost(void*) { return kNotSupported; }
int cudaMemGetInfo(size_t*, size_t*) { return kNotSupported; }
int cudaMemcpyAsync(void*, const void*, size_t, int, void*) { return kNotSupported; }
int cudaStreamCreateWithFlags(void**, unsigned) { return kNotSupported; }
int cudaStreamDestroy(void*) { return kNotSupported; }
int cudaStreamSynchronize(void*) { return kNotSupported; }
int latent_attention_plan(const int32_t*, const int32_t*, const int32_t*, uint32_t, uint32_t, uint32_t, int,
                          void*, size_t, LatentAttentionPlan*) {
  return kNotSupported;
}

}  // extern "C"
