// bf16 cache on sm_86, sm_89 and whatever else has 99 KB of shared memory for a block: one stage, 92,672 B.
#include "mla_sm80.cuh"

extern "C" int latent_attention_sm86_bf16(const LatentAttentionPlan* plan,
                                          const LatentAttentionTensors* tensors, int causal,
                                          void* stream) {
  using namespace hybridseek;
  return causal ? Sm80<true, __nv_bfloat16, 1, 16, false>::run(plan, tensors, stream)
                : Sm80<false, __nv_bfloat16, 1, 16, false>::run(plan, tensors, stream);
}
