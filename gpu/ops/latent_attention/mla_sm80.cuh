// FlashInfer's FA2 kernel, for sm_80 and later.
#pragma once

#include "mla_kernel.cuh"

namespace hybridseek {

template <bool Causal, typename Cache, uint32_t Stages, uint32_t KeyTile, bool QkShard>
struct Sm80 {
  using Traits = flashinfer::mla::KernelTraits<Causal, Stages, QkShard, kLatent, kRotary, kQueryTile,
                                               KeyTile, __nv_bfloat16, Cache, __nv_bfloat16, int32_t>;
  static int run(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                 void* stream) {
    return launch<Traits, Cache>(
        flashinfer::mla::BatchMLAPagedAttentionKernel<Traits, Params<Cache>>, dim3(32, 4, 2), plan,
        tensors, stream);
  }
};

}  // namespace hybridseek
