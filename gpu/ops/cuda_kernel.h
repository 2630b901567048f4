// What the kernels of a CUDA device share.
#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "../runtime/cuda.h"
#include "cpu_kernels.h"
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

// What tells a step's plan from another's: sizes, the device, and the step's indices byte for byte.
std::vector<int32_t> step_key(const cpu::Batch& batch, std::initializer_list<int32_t> sizes);

// The plan of a queue: what comes later on it waits until kernels have read what is written over.
template <class Plan>
Plan& plan_of_queue(void* stream) {
  static std::mutex mutex;
  // Never freed: when the process ends, the CUDA runtime may have ended before.
  static auto* plans = new std::map<void*, std::unique_ptr<Plan>>;
  std::lock_guard<std::mutex> lock(mutex);
  auto& plan = (*plans)[stream];
  if (!plan) plan = std::make_unique<Plan>();
  return *plan;
}

// The kernel for the device and a cache of fp8 or else bf16 rows; null if there is none.
using AttentionKernel = int (*)(const LatentAttentionPlan*, const LatentAttentionTensors*, int causal,
                                void* stream);
AttentionKernel attention_kernel(bool fp8, uint32_t latent = LATENT_ATTENTION_LATENT,
                                 uint32_t rotary = LATENT_ATTENTION_ROTARY);

}  // namespace hybridseek
