// Rows of other sizes than FlashInfer's, and fp8 where its kernels need more shared memory than a block has.
#include "latent_attention.h"

namespace {

int run(const LatentAttentionPlan& plan, const LatentAttentionTensors& tensors, int cache_fp8, void* stream) {
  GenericAttentionTensors generic{};
  generic.width = tensors.latent + tensors.rotary;
  generic.value_width = generic.leading = tensors.latent;
  generic.block_size = plan.block_size;
  generic.cache_fp8 = cache_fp8;
  generic.query = tensors.query_latent;
  generic.query_rest = tensors.query_rotary;
  generic.keys = generic.values = tensors.cache;
  generic.block_indices = tensors.block_indices;
  generic.tables = static_cast<const char*>(tensors.int_workspace) + plan.generic_offset;
  generic.partials = tensors.float_workspace;
  generic.result = tensors.output;
  generic.log_sum_exp = tensors.log_sum_exp;
  generic.scale = tensors.scale;
  generic.cache_scale = tensors.cache_scale;
  return generic_attention_run(&plan.generic, &generic, stream);
}

}  // namespace

extern "C" const char* latent_attention_generic_refusal(uint32_t latent, uint32_t rotary, int cache_fp8) {
  if (latent == 0 || latent % 32 != 0 || latent > 512 || rotary == 0 || rotary % 16 != 0 || rotary > 128) {
    return "the latent has at most 512 columns, in multiples of 32, and the rotated key at most 128, in multiples "
           "of 16";
  }
  return generic_attention_refusal(latent + rotary, latent, /*shared_values=*/1, cache_fp8);
}

extern "C" int latent_attention_generic_bf16(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                                             int /*causal*/, void* stream) {
  return run(*plan, *tensors, /*cache_fp8=*/0, stream);
}

extern "C" int latent_attention_generic_fp8(const LatentAttentionPlan* plan, const LatentAttentionTensors* tensors,
                                            int /*causal*/, void* stream) {
  return run(*plan, *tensors, /*cache_fp8=*/1, stream);
}
