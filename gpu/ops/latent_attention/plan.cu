// The step's plan: host code of FlashInfer's scheduler, and behind it that of our kernels.
#include <exception>
#include <vector>

#include <flashinfer/attention/scheduler.cuh>

#include "latent_attention.h"

extern "C" int latent_attention_plan(const int32_t* query_starts, const int32_t* block_starts,
                                     const int32_t* context_lengths, uint32_t sequences,
                                     uint32_t heads, uint32_t block_size, int causal, void* tables,
                                     size_t float_bytes, LatentAttentionPlan* plan) {
  if (sequences == 0 || heads == 0 || block_size == 0) return cudaErrorInvalidValue;
  flashinfer::MLAPlanInfo info;
  plan->heads = heads;
  plan->block_size = block_size;
  // The planner lays out the device's buffers without touching them: any aligned address will do.
  auto* device = reinterpret_cast<void*>(uintptr_t{256});
  try {
    cudaError_t error = flashinfer::MLAPlan<int32_t>(
        device, float_bytes, device, tables, LATENT_ATTENTION_INT_WORKSPACE, info,
        plan->staged_bytes, const_cast<int32_t*>(query_starts), const_cast<int32_t*>(block_starts),
        const_cast<int32_t*>(context_lengths), sequences, heads, LATENT_ATTENTION_LATENT,
        causal != 0, nullptr);
    if (error != cudaSuccess) return error;
  } catch (const std::exception&) {
    return cudaErrorInvalidValue;
  }
  std::vector<int64_t> words = info.ToVector();
  for (size_t i = 0; i < words.size(); i++) plan->offsets[i] = words[i];
  plan->generic_offset = (plan->staged_bytes + 15) / 16 * 16;
  if (plan->generic_offset > LATENT_ATTENTION_INT_WORKSPACE) return cudaErrorInvalidValue;
  int error = generic_attention_plan(query_starts, block_starts, context_lengths, sequences, heads, /*groups=*/1,
                                     LATENT_ATTENTION_LATENT, static_cast<char*>(tables) + plan->generic_offset,
                                     LATENT_ATTENTION_INT_WORKSPACE - plan->generic_offset, float_bytes,
                                     &plan->generic);
  plan->staged_bytes = plan->generic_offset + plan->generic.staged_bytes;
  return error;
}
