// bf16 cache on sm_80: two stages, 147,968 B of shared memory.
#include "mla_sm80.cuh"

extern "C" int latent_attention_sm80_bf16(const LatentAttentionPlan* plan,
                                          const LatentAttentionTensors* tensors, int causal,
                                          void* stream) {
  using namespace hybridseek;
  return causal ? Sm80<true, __nv_bfloat16, 2, 32, true>::run(plan, tensors, stream)
                : Sm80<false, __nv_bfloat16, 2, 32, true>::run(plan, tensors, stream);
}
