// What the kernels of a CUDA device share.
#pragma once

#include "../runtime/cuda.h"
#include "latent_attention/latent_attention.h"
#include "op.h"

namespace hybridseek {

// A kernel on the current device, whose temporary memory is there too.
class CudaKernel : public Kernel {
 public:
  // Throws if CUDA can not be used.
  explicit CudaKernel(const NodeInfo& node);
};

// Memory that a device's kernels are about to use. On a real device there is nothing to do; the emulated
// runtime is told that they may, as long as this lives: onnxruntime's memory is not of its making.
class OnDevice {
 public:
  OnDevice(const void* data, size_t bytes);
  explicit OnDevice(const Tensor& tensor);
  ~OnDevice();
  OnDevice(OnDevice&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }

 private:
  const void* data_;
};

// The kernel for the device and a cache of fp8 or else bf16 rows; null if there is none.
using AttentionKernel = int (*)(const LatentAttentionPlan*, const LatentAttentionTensors*, int causal,
                                void* stream);
AttentionKernel attention_kernel(bool fp8, uint32_t latent = LATENT_ATTENTION_LATENT,
                                 uint32_t rotary = LATENT_ATTENTION_ROTARY);

}  // namespace hybridseek
