// FlashInfer's FA2 kernel for sm_80, fp8 cache. One stage, 129,536 B of shared memory: the two that
// FlashInfer's own dispatcher takes here need 184,832 B, which a block of sm_80 does not have.
#include "mla_kernel.cuh"

namespace hybridseek {
namespace {

using Cache = __nv_fp8_e4m3;

template <bool Causal>
int run(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors, void* stream) {
  using Traits = flashinfer::mla::KernelTraits<Causal, /*NUM_STAGES=*/1, /*QK_SHARD=*/false, kLatent,
                                               kRotary, kQueryTile, /*CTA_TILE_KV=*/32,
                                               __nv_bfloat16, Cache, __nv_bfloat16, int32_t>;
  return launch<Traits, Cache>(flashinfer::mla::BatchMLAPagedAttentionKernel<Traits, Params<Cache>>,
                               dim3(32, 4, 2), plan, tensors, stream);
}

}  // namespace
}  // namespace hybridseek

extern "C" int latent_attention_sm80_fp8(const LatentAttentionPlan* plan,
                                          const LatentAttentionTensors* tensors, int causal,
                                          void* stream) {
  return causal ? hybridseek::run<true>(plan, tensors, stream)
                : hybridseek::run<false>(plan, tensors, stream);
}
