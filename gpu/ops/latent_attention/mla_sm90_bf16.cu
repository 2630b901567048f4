// FlashInfer's warp-specialised kernel for sm_90a, bf16 cache.
#include "mla_kernel.cuh"

#include <flashinfer/attention/mla_hopper.cuh>

namespace hybridseek {
namespace {

using Cache = __nv_bfloat16;

template <bool Causal>
int run(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors, void* stream) {
  using Traits =
      flashinfer::mla::hopper::HopperKernelTraits<Causal, /*NUM_STAGES=*/2, kLatent, kRotary,
                                                  kQueryTile, /*CTA_TILE_KV=*/64, __nv_bfloat16,
                                                  Cache, __nv_bfloat16, int32_t>;
  return launch<Traits, Cache>(
      flashinfer::mla::hopper::BatchMLAPageAttentionHopperKernel<Traits, Params<Cache>>,
      dim3(Traits::NUM_THREADS), plan, tensors, stream);
}

}  // namespace
}  // namespace hybridseek

extern "C" int latent_attention_sm90_bf16(const LatentAttentionPlan* plan,
                                          const LatentAttentionTensors* tensors, int causal,
                                          void* stream) {
  return causal ? hybridseek::run<true>(plan, tensors, stream)
                : hybridseek::run<false>(plan, tensors, stream);
}
