// FlashInfer's FA2 kernel for sm_80 (147,968 B of shared memory), bf16 cache.
#include "mla_kernel.cuh"

namespace hybridseek {
namespace {

using Cache = __nv_bfloat16;

template <bool Causal>
int run(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors, void* stream) {
  using Traits = flashinfer::mla::KernelTraits<Causal, /*NUM_STAGES=*/2, /*QK_SHARD=*/true, kLatent,
                                               kRotary, kQueryTile, /*CTA_TILE_KV=*/32,
                                               __nv_bfloat16, Cache, __nv_bfloat16, int32_t>;
  return launch<Traits, Cache>(flashinfer::mla::BatchMLAPagedAttentionKernel<Traits, Params<Cache>>,
                               dim3(32, 4, 2), plan, tensors, stream);
}

}  // namespace
}  // namespace hybridseek

extern "C" int latent_attention_sm80_bf16(const LatentAttentionPlan* plan,
                                          const LatentAttentionTensors* tensors, int causal,
                                          void* stream) {
  return causal ? hybridseek::run<true>(plan, tensors, stream)
                : hybridseek::run<false>(plan, tensors, stream);
}
