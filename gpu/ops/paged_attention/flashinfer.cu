// Heads of 128 columns: FlashInfer's FA2 prefill kernels, which decode too, for sm_80 and later; and the choice
// between them and ours. The kernel templates are named directly and not through FlashInfer's dispatchers,
// which instantiate several sizes of key tiles each: these fit the 99 KB of a block of sm_86.
#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/scheduler.cuh>
#include <flashinfer/attention/variants.cuh>

#include "paged_attention.h"

namespace hybridseek {
namespace {

constexpr uint32_t kHead = PAGED_ATTENTION_HEAD;
using Element = __nv_bfloat16;
using Params = flashinfer::BatchPrefillPagedParams<Element, Element, float, int32_t>;
using Variant = flashinfer::DefaultAttention</*custom_mask=*/false, /*sliding_window=*/false,
                                             /*logits_soft_cap=*/false, /*alibi=*/false>;

// Tiles of 16 rows have one warp along them, larger ones four; a warp has at most two times 16 rows.
template <uint32_t QueryTile, uint32_t KeyMmas>
cudaError_t launch(const Params& params, cudaStream_t stream) {
  constexpr uint32_t kWarps = flashinfer::get_num_warps_q(QueryTile);
  using Traits = flashinfer::KernelTraits<flashinfer::MaskMode::kCausal, QueryTile,
                                          flashinfer::get_num_mma_q(QueryTile), KeyMmas, kHead / 16, kHead / 16,
                                          kWarps, flashinfer::get_num_warps_kv(QueryTile),
                                          flashinfer::PosEncodingMode::kNone, Element, Element, float, float,
                                          int32_t, Variant>;
  static_assert(!Traits::IsInvalid());
  constexpr size_t kShared = sizeof(typename Traits::SharedStoragePaged);
  auto* kernel = flashinfer::BatchPrefillWithPagedKVCacheKernel</*SAME_KV_STRIDES=*/true, Traits, Params>;
  auto* entry = reinterpret_cast<const void*>(kernel);
  cudaError_t error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) return error;
  dim3 blocks(params.padded_batch_size, 1, params.paged_kv.num_heads);
  dim3 threads(32, kWarps, flashinfer::get_num_warps_kv(QueryTile));
  Params copy = params;
  void* arguments[] = {&copy};
  return cudaLaunchKernel(entry, blocks, threads, arguments, kShared, stream);
}

// Adds up the parts of split contexts.
cudaError_t merge(float* parts, float* part_sums, int32_t* starts, float* y, uint32_t tokens, uint32_t heads,
                  cudaStream_t stream) {
  constexpr uint32_t kVector = 4, kAcross = kHead / kVector, kDown = 128 / kAcross, kStages = 4;
  constexpr size_t kShared = kStages * kDown * kHead * sizeof(float) + 128 * sizeof(float);
  auto* kernel =
      flashinfer::PersistentVariableLengthMergeStatesKernel<kVector, kAcross, kDown, kStages, float, float, int32_t>;
  float* sums = nullptr;
  uint32_t* varying = nullptr;
  void* arguments[] = {&parts, &part_sums, &starts, &y, &sums, &tokens, &varying, &heads};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3((tokens * heads + kDown - 1) / kDown),
                          dim3(kAcross, kDown), arguments, kShared, stream);
}

bool is_flashinfers(uint32_t width, uint32_t value_width) { return width == kHead && value_width == kHead; }

cudaError_t plan_flashinfer(const int32_t* query_starts, const int32_t* block_starts,
                            const int32_t* context_lengths, void* tables, size_t table_bytes, size_t float_bytes,
                            PagedAttentionPlan* plan) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  uint32_t sequences = plan->sequences;
  // Contexts are shared by as many blocks as two for each multiprocessor and key head.
  auto [split, blocks, padded, query_tile, chunk, requests, query_tiles, key_tiles, merge_starts, starts] =
      flashinfer::PrefillSplitQOKVIndptr(
          const_cast<int32_t*>(query_starts), const_cast<int32_t*>(block_starts), plan->tokens, sequences,
          plan->heads, plan->groups, kHead, plan->block_size,
          2 * static_cast<uint32_t>(multiprocessors) / plan->groups, /*enable_cuda_graph=*/false,
          /*window_left=*/-1, /*fixed_split_size=*/-1, /*disable_split_kv=*/false, /*uniform_q_len=*/0, kHead);
  plan->split = split;
  plan->blocks = blocks;
  plan->query_tile = query_tile;
  // Rows of partial results.
  plan->parts = split ? static_cast<uint32_t>(starts.back()) : 0;
  if (size_t{plan->parts} * plan->heads * (kHead + 1) * sizeof(float) > float_bytes) return cudaErrorInvalidValue;
  std::vector<int32_t> last_rows(sequences);
  for (uint32_t b = 0; b < sequences; b++) {
    last_rows[b] = (context_lengths[b] - 1) % static_cast<int32_t>(plan->block_size) + 1;
  }
  std::vector<int32_t> chunk_size{static_cast<int32_t>(chunk)};
  std::vector<int32_t> query(query_starts, query_starts + sequences + 1);
  std::vector<int32_t> block(block_starts, block_starts + sequences + 1);
  size_t words = 0;
  for (const auto* table :
       {&query, &block, &last_rows, &chunk_size, &requests, &query_tiles, &key_tiles, &starts, &merge_starts}) {
    if ((words + table->size()) * sizeof(int32_t) > table_bytes) return cudaErrorInvalidValue;
    std::copy(table->begin(), table->end(), static_cast<int32_t*>(tables) + words);
    words += table->size();
  }
  plan->staged_bytes = words * sizeof(int32_t);
  return cudaSuccess;
}

cudaError_t attend_flashinfer(const PagedAttentionPlan& plan, const PagedAttentionTensors& tensors,
                              cudaStream_t stream) {
  // The tables in the order in which they were planned.
  auto* next = static_cast<int32_t*>(tensors.int_workspace);
  auto table = [&](size_t words) { return std::exchange(next, next + words); };
  int32_t* query_starts = table(plan.sequences + 1);
  int32_t* block_starts = table(plan.sequences + 1);
  int32_t* last_rows = table(plan.sequences);
  flashinfer::paged_kv_t<Element, int32_t> cache(
      plan.groups, plan.block_size, kHead, plan.sequences, flashinfer::QKVLayout::kNHD,
      static_cast<Element*>(tensors.key_cache), static_cast<Element*>(tensors.value_cache),
      const_cast<int32_t*>(tensors.block_indices), block_starts, last_rows);
  Params params(static_cast<Element*>(tensors.rotated), cache, nullptr, query_starts, nullptr, nullptr, tensors.y,
                nullptr, nullptr, plan.heads, static_cast<int32_t>(plan.heads * kHead), kHead, /*window_left=*/-1,
                /*logits_soft_cap=*/0, tensors.scale, /*rope_scale=*/1, /*rope_theta=*/1);
  params.kv_chunk_size_ptr = table(1);
  params.request_indices = table(plan.blocks);
  params.qo_tile_indices = table(plan.blocks);
  params.kv_tile_indices = table(plan.blocks);
  params.o_indptr = table(plan.sequences + 1);
  params.merge_indptr = next;
  params.max_total_num_rows = plan.tokens;
  params.padded_batch_size = plan.blocks;
  params.partition_kv = plan.split != 0;
  if (plan.split) {
    params.o = static_cast<float*>(tensors.float_workspace);
    params.lse = params.o + size_t{plan.parts} * plan.heads * kHead;
  }
  cudaError_t error = plan.query_tile == 16   ? launch<16, 1>(params, stream)
                      : plan.query_tile == 64 ? launch<64, 4>(params, stream)
                                              : launch<128, 4>(params, stream);
  if (error != cudaSuccess || !plan.split) return error;
  return merge(params.o, params.lse, params.merge_indptr, tensors.y, plan.tokens, plan.heads, stream);
}

}  // namespace
}  // namespace hybridseek

using namespace hybridseek;

extern "C" const char* paged_attention_refusal(uint32_t heads, uint32_t groups, uint32_t width,
                                               uint32_t value_width) {
  if (groups == 0 || heads == 0 || heads % groups != 0) return "query heads must be a multiple of key heads";
  if (is_flashinfers(width, value_width)) return nullptr;
  return generic_attention_refusal(width, value_width, /*shared_values=*/0, /*cache_fp8=*/0);
}

extern "C" int paged_attention_plan(const int32_t* query_starts, const int32_t* block_starts,
                                    const int32_t* context_lengths, void* tables, size_t table_bytes,
                                    size_t float_bytes, PagedAttentionPlan* plan) {
  if (plan->sequences == 0 || plan->tokens == 0 || plan->block_size == 0) return cudaErrorInvalidValue;
  try {
    if (is_flashinfers(plan->width, plan->value_width)) {
      return plan_flashinfer(query_starts, block_starts, context_lengths, tables, table_bytes, float_bytes, plan);
    }
    int error = generic_attention_plan(query_starts, block_starts, context_lengths, plan->sequences, plan->heads,
                                       plan->groups, plan->value_width, tables, table_bytes, float_bytes,
                                       &plan->generic);
    plan->staged_bytes = plan->generic.staged_bytes;
    return error;
  } catch (const std::exception&) {
    return cudaErrorInvalidValue;
  }
}

extern "C" int paged_attention_attend(const PagedAttentionPlan* plan, const PagedAttentionTensors* tensors,
                                      void* stream) {
  if (is_flashinfers(plan->width, plan->value_width)) {
    return attend_flashinfer(*plan, *tensors, static_cast<cudaStream_t>(stream));
  }
  GenericAttentionTensors generic{};
  generic.width = generic.leading = plan->width;
  generic.value_width = plan->value_width;
  generic.block_size = plan->block_size;
  generic.result_f32 = 1;
  generic.query = tensors->rotated;
  generic.keys = tensors->key_cache;
  generic.values = tensors->value_cache;
  generic.block_indices = tensors->block_indices;
  generic.tables = tensors->int_workspace;
  generic.partials = tensors->float_workspace;
  generic.result = tensors->y;
  generic.scale = tensors->scale;
  generic.cache_scale = 1;
  return generic_attention_run(&plan->generic, &generic, stream);
}
