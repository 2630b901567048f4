// The ops of the domain `hybridseek`: inputs, outputs and meaning are those of export-tools/ops.
#pragma once

#include "op.h"

namespace hybridseek {

std::unique_ptr<Op> latent_attention_cpu(const OrtFunctions& ort);
std::unique_ptr<Op> paged_attention_cpu(const OrtFunctions& ort);
std::unique_ptr<Op> sparse_experts_cpu(const OrtFunctions& ort);
// SparseExperts by another name that no device has a kernel of: the node stays on the CPU, and so do its
// weights, whatever the session's providers are.
std::unique_ptr<Op> sparse_experts_host(const OrtFunctions& ort);
std::vector<std::unique_ptr<Op>> collectives(const OrtFunctions& ort);

#ifdef HYBRIDSEEK_CUDA
std::unique_ptr<Op> latent_attention_cuda(const OrtFunctions& ort);
std::unique_ptr<Op> paged_attention_cuda(const OrtFunctions& ort);
std::unique_ptr<Op> sparse_experts_cuda(const OrtFunctions& ort);
#endif

}  // namespace hybridseek
