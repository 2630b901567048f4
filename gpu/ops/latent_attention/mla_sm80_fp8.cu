// fp8 cache on sm_80. One stage, 129,536 B of shared memory: the two that FlashInfer's own dispatcher takes
// here need 184,832 B, which a block of sm_80 does not have.
#include "mla_sm80.cuh"

extern "C" int latent_attention_sm80_fp8(const LatentAttentionPlan* plan,
                                         const LatentAttentionTensors* tensors, int causal,
                                         void* stream) {
  using namespace hybridseek;
  return causal ? Sm80<true, __nv_fp8_e4m3, 1, 32, false>::run(plan, tensors, stream)
                : Sm80<false, __nv_fp8_e4m3, 1, 32, false>::run(plan, tensors, stream);
}
