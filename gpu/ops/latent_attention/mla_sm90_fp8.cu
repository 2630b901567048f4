// fp8 cache on sm_90a.
#include "mla_sm90.cuh"

extern "C" int latent_attention_sm90_fp8(const LatentAttentionPlan* plan,
                                         const LatentAttentionTensors* tensors, int causal,
                                         void* stream) {
  using namespace hybridseek;
  return causal ? Sm90<true, __nv_fp8_e4m3>::run(plan, tensors, stream)
                : Sm90<false, __nv_fp8_e4m3>::run(plan, tensors, stream);
}
