// bf16 cache on sm_90a.
#include "mla_sm90.cuh"

extern "C" int latent_attention_sm90_bf16(const LatentAttentionPlan* plan,
                                          const LatentAttentionTensors* tensors, int causal,
                                          void* stream) {
  using namespace hybridseek;
  return causal ? Sm90<true, __nv_bfloat16>::run(plan, tensors, stream)
                : Sm90<false, __nv_bfloat16>::run(plan, tensors, stream);
}
