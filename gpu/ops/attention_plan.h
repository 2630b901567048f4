// What the attention kernels of a device need of a step beside its tensors: who computes what, as FlashInfer's
// planner divides it, where the step's rows go, and where the contexts lie. One plan serves all layers.
#pragma once

#include <memory>
#include <mutex>

#include "../runtime/cuda.h"
#include "cpu_kernels.h"
#include "latent_attention/latent_attention.h"

namespace hybridseek {

// Where it lies does not change as long as steps are within what was reserved, and how many bytes are copied
// is decided by the shapes of a step: so its copy to the device may be a part of a CUDA graph.
class AttentionPlan {
 public:
  void reserve(size_t tokens, size_t sequences, size_t table_width);
  // Plans a checked step, on the host. The device has ended with the step before.
  void make(const cpu::Batch& batch, uint32_t heads, uint32_t block_size);
  // Brings the plan to the device, for a layer's kernel. The first layer of a step does, and does so again where
  // the same step is run again: to be captured as a CUDA graph, which then has the copy in it.
  void upload(const void* layer, void* stream);

  // What it was made for.
  size_t tokens = 0;
  uint32_t heads = 0, block_size = 0;
  size_t blocks = 0;  // of the cache, by whoever has checked the step

  LatentAttentionPlan plan{};
  bool causal = false;
  const int32_t* slots() const { return static_cast<const int32_t*>(indices_.data()); }
  const int32_t* block_indices() const { return slots() + tokens; }
  void* ints() const { return ints_.data(); }
  void* floats() const { return floats_.data(); }

  // Held while a layer launches.
  std::mutex mutex;

 private:
  cuda::Pinned tables_, given_indices_;
  cuda::Buffer ints_, floats_, indices_;
  size_t index_bytes_ = 0;
  const void* uploader_ = nullptr;  // null: nobody yet
};

// Plans by number, as a graph's input names them. They live as long as someone else keeps them.
int32_t register_plan(const std::shared_ptr<AttentionPlan>& plan);
std::shared_ptr<AttentionPlan> find_plan(int32_t number);

}  // namespace hybridseek
