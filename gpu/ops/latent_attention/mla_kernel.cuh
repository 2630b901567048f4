// One instance of FlashInfer's MLA kernel behind the C interface of latent_attention.h.
// The kernel templates are named directly and not through FlashInfer's dispatchers: those
// instantiate three shared-memory configurations each, and a target uses one.
#pragma once

#include <cstdint>
#include <vector>

#include <flashinfer/attention/mla.cuh>
#include <flashinfer/attention/mla_params.cuh>
#include <flashinfer/attention/scheduler.cuh>
#include <flashinfer/fastdiv.cuh>

#include "latent_attention.h"

namespace hybridseek {

constexpr uint32_t kLatent = LATENT_ATTENTION_LATENT;
constexpr uint32_t kRotary = LATENT_ATTENTION_ROTARY;
constexpr uint32_t kRow = kLatent + kRotary;
constexpr uint32_t kQueryTile = 64;

template <typename Cache>
using Params = flashinfer::MLAParams<__nv_bfloat16, Cache, __nv_bfloat16, int32_t>;

template <typename Cache>
Params<Cache> make_params(const LatentAttentionPlan& plan, const LatentAttentionTensors& tensors) {
  auto* ints = static_cast<char*>(tensors.int_workspace);
  auto* floats = static_cast<char*>(tensors.float_workspace);
  flashinfer::MLAPlanInfo offsets;
  offsets.FromVector(std::vector<int64_t>(plan.offsets, plan.offsets + LATENT_ATTENTION_PLAN_WORDS));
  auto indices = [&](int64_t offset) { return reinterpret_cast<int32_t*>(ints + offset); };

  Params<Cache> params{};
  params.q_nope = static_cast<__nv_bfloat16*>(const_cast<void*>(tensors.query_latent));
  params.q_pe = static_cast<__nv_bfloat16*>(const_cast<void*>(tensors.query_rotary));
  params.ckv = static_cast<Cache*>(const_cast<void*>(tensors.cache));
  params.kpe = params.ckv + kLatent;
  params.final_o = static_cast<__nv_bfloat16*>(tensors.output);
  params.final_lse = tensors.log_sum_exp;
  params.partial_o = reinterpret_cast<__nv_bfloat16*>(floats + offsets.partial_o_offset);
  params.partial_lse = reinterpret_cast<float*>(floats + offsets.partial_lse_offset);
  params.kv_indices = const_cast<int32_t*>(tensors.block_indices);
  params.q_indptr = indices(offsets.q_indptr_offset);
  params.kv_indptr = indices(offsets.kv_indptr_offset);
  params.partial_indptr = indices(offsets.partial_indptr_offset);
  params.q_len = indices(offsets.q_len_offset);
  params.kv_len = indices(offsets.kv_len_offset);
  params.q_start = indices(offsets.q_start_offset);
  params.kv_start = indices(offsets.kv_start_offset);
  params.kv_end = indices(offsets.kv_end_offset);
  params.work_indptr = indices(offsets.work_indptr_offset);
  params.merge_packed_offset_start = indices(offsets.merge_packed_offset_start_offset);
  params.merge_packed_offset_end = indices(offsets.merge_packed_offset_end_offset);
  params.merge_partial_packed_offset_start =
      indices(offsets.merge_partial_packed_offset_start_offset);
  params.merge_partial_packed_offset_end = indices(offsets.merge_partial_packed_offset_end_offset);
  params.merge_partial_stride = indices(offsets.merge_partial_stride_offset);
  params.num_heads = flashinfer::uint_fastdiv(plan.heads);
  params.block_size = flashinfer::uint_fastdiv(plan.block_size);
  params.q_nope_stride_n = plan.heads * kLatent;
  params.q_nope_stride_h = kLatent;
  params.q_pe_stride_n = plan.heads * kRotary;
  params.q_pe_stride_h = kRotary;
  params.ckv_stride_page = params.kpe_stride_page = plan.block_size * kRow;
  params.ckv_stride_n = params.kpe_stride_n = kRow;
  params.o_stride_n = plan.heads * kLatent;
  params.o_stride_h = kLatent;
  params.sm_scale = tensors.scale;
  params.ckv_scale = params.kpe_scale = tensors.cache_scale;
  params.ckv_scale_arr = nullptr;
  params.return_lse_base_on_e = true;
  return params;
}

template <typename Traits, typename Cache>
int launch(void (*kernel)(Params<Cache>), dim3 threads, const LatentAttentionPlan* plan,
           const LatentAttentionTensors* tensors, void* stream) {
  Params<Cache> params = make_params<Cache>(*plan, *tensors);
  constexpr size_t shared = sizeof(typename Traits::SharedStorage);
  auto* entry = reinterpret_cast<const void*>(kernel);
  cudaError_t error =
      cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (error != cudaSuccess) return error;
  void* arguments[] = {&params};
  dim3 blocks(static_cast<unsigned>(plan->offsets[0]), static_cast<unsigned>(plan->offsets[1]));
  return cudaLaunchCooperativeKernel(entry, blocks, threads, arguments, shared,
                                     static_cast<cudaStream_t>(stream));
}

}  // namespace hybridseek
