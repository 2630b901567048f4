// FlashInfer's warp-specialised kernel for sm_90a.
#pragma once

#include "mla_kernel.cuh"

#include <flashinfer/attention/mla_hopper.cuh>

namespace hybridseek {

template <bool Causal, typename Cache>
struct Sm90 {
  using Traits =
      flashinfer::mla::hopper::HopperKernelTraits<Causal, /*NUM_STAGES=*/2, kLatent, kRotary,
                                                  kQueryTile, /*CTA_TILE_KV=*/64, __nv_bfloat16,
                                                  Cache, __nv_bfloat16, int32_t>;
  static int run(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                 void* stream) {
    return launch<Traits, Cache>(
        flashinfer::mla::hopper::BatchMLAPageAttentionHopperKernel<Traits, Params<Cache>>,
        dim3(Traits::NUM_THREADS), plan, tensors, stream);
  }
};

}  // namespace hybridseek
