// SparseExperts on a CUDA device. int8 and int4 weights stay as they lie in the model; float ones become bf16.
#include "cuda_kernel.h"
#include "experts_node.h"
#include "grouped_gemm/weights.h"
#include "ops.h"
#include "sparse_experts/sparse_experts.h"

namespace hybridseek {

namespace {

class SparseExpertsCuda : public CudaKernel {
 public:
  explicit SparseExpertsCuda(const NodeInfo& node) : CudaKernel(node) {
    ExpertsNode parts(node);
    const cpu::ExpertsSizes& s = parts.sizes;
    auto number = [](size_t n) { return static_cast<uint32_t>(n); };
    uint32_t format = s.format == cpu::kInt8   ? SPARSE_EXPERTS_INT8
                      : s.format == cpu::kInt4 ? SPARSE_EXPERTS_INT4
                                               : SPARSE_EXPERTS_BF16;
    shape_ = {number(s.hidden), number(s.width), number(s.experts),    number(s.first), number(s.held),
              number(s.k),      number(s.groups), number(s.top_groups), s.normalize,     s.scaling,
              format};
    if (const char* refusal = sparse_experts_refusal(&shape_)) {
      throw node.error(std::string("on CUDA, ") + refusal + ".");
    }
    keep(parts.router);
    tensors_.router = parts.router.as<float>();
    tensors_.gate_up = weights_of(parts.gate_up, gate_up_);
    tensors_.down = weights_of(parts.down, down_);
    if (parts.gate_up_scales) {
      keep(*parts.gate_up_scales);
      keep(*parts.down_scales);
      tensors_.gate_up_scales = parts.gate_up_scales->data;
      tensors_.down_scales = parts.down_scales->data;
    }
    cuda::check(cudaStreamSynchronize(nullptr), "the packing of experts");
  }

  void run(const Run& run) const override {
    Tensor x = run.input(kExpertsX, {-1, shape_.hidden});
    int64_t tokens = x.dim(0), k = shape_.k;
    SparseExpertsTensors tensors = tensors_;
    tensors.x = x.as<float>();
    tensors.y = static_cast<float*>(run.output(0, x.type.dims));
    tensors.chosen = static_cast<int32_t*>(run.output(1, {tokens, k}));
    tensors.weights = static_cast<float*>(run.output(2, {tokens, k}));
    if (tokens == 0) return;
    if (tokens > INT32_MAX / k) throw run.error("a step has too many tokens.");
    size_t hits = static_cast<size_t>(tokens * k);
    size_t bytes = sparse_experts_workspace(&shape_, static_cast<uint32_t>(tokens));
    // Behind it, what nobody wants to have of the choice.
    Scratch scratch = run.scratch(bytes + hits * 8);
    tensors.workspace = scratch.data();
    auto unwanted = static_cast<uint8_t*>(scratch.data()) + bytes;
    OnDevice seen[] = {OnDevice(x), OnDevice(tensors.y, x.type.count() * 4),
                       OnDevice(scratch.data(), bytes + hits * 8), OnDevice(tensors.chosen, hits * 4),
                       OnDevice(tensors.weights, hits * 4)};
    if (!tensors.chosen) tensors.chosen = reinterpret_cast<int32_t*>(unwanted);
    if (!tensors.weights) tensors.weights = reinterpret_cast<float*>(unwanted + hits * 4);
    cuda::check(sparse_experts_run(&shape_, &tensors, static_cast<uint32_t>(tokens), run.stream()),
                place.c_str());
  }

 private:
  void keep(const Tensor& tensor) { seen_.emplace_back(tensor); }

  // The matrices as the kernels take them: the model's own, or a copy in bf16.
  const void* weights_of(const Tensor& tensor, cuda::Buffer& copy) {
    keep(tensor);
    if (shape_.format != SPARSE_EXPERTS_BF16) return tensor.data;
    size_t count = tensor.type.count();
    copy = cuda::Buffer(count * 2);
    cuda::check(weights_to_bf16(tensor.data, tensor.type.type == kFloat16, count, copy.data(), nullptr),
                "the packing of experts");
    return copy.data();
  }

  SparseExpertsShape shape_;
  SparseExpertsTensors tensors_{};
  cuda::Buffer gate_up_, down_;
  std::vector<OnDevice> seen_;
};

}  // namespace

std::unique_ptr<Op> sparse_experts_cuda(const OrtFunctions& ort) {
  return op_of<SparseExpertsCuda>(ort, experts_schema(), kCudaProvider);
}

}  // namespace hybridseek
