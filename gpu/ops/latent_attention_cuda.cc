// LatentAttention on a CUDA device: FlashInfer's kernels or ours, and ours around them. The cache is bf16 or fp8.
#include <mutex>

#include "attention_plan.h"
#include "cuda_kernel.h"
#include "latent_node.h"
#include "ops.h"
#include "step_batch.h"

namespace hybridseek {

namespace {

// The plan of a queue's steps, in sessions whose graph is not given one: the first layer of a step makes it,
// the others find it. It is theirs if the step's indices are the same, byte for byte.
class QueuePlan : public AttentionPlan {
 public:
  void prepare(const cpu::Batch& batch, uint32_t heads, uint32_t block_size, void* stream) {
    auto word = [](uint32_t n) { return static_cast<int32_t>(n); };
    std::vector<int32_t> key = step_key(batch, {word(heads), word(block_size)});
    if (key == key_) return;
    key_.clear();  // until all has gone well
    // What is written over may be about to be copied.
    cuda::check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    make(batch, heads, block_size);
    key_ = std::move(key);
  }

 private:
  std::vector<int32_t> key_;
};

class LatentAttentionCuda : public CudaKernel {
 public:
  explicit LatentAttentionCuda(const NodeInfo& node) : CudaKernel(node) {
    LatentNode parts(node);
    sizes_ = parts.sizes;
    if (sizes_.nope % 8 != 0 || sizes_.value % 8 != 0) {
      throw node.error("on CUDA, nope and value dims are multiples of 8; here they are " +
                       std::to_string(sizes_.nope) + " and " + std::to_string(sizes_.value) + ".");
    }
    int cache = node.type(kCache);
    if (cache != kBfloat16 && cache != kFloat8) {
      throw node.error("on CUDA, the cache must be bfloat16 or float8e4m3fn.");
    }
    fp8_ = cache == kFloat8;
    attend_ = attention_kernel(fp8_, number(sizes_.rank), number(sizes_.rope));
    if (!attend_) {
      const char* refusal = latent_attention_generic_refusal(number(sizes_.rank), number(sizes_.rope), fp8_);
      throw node.error(std::string("on CUDA, ") +
                       (refusal ? refusal : "compute capability 8.0 or later is needed") + ".");
    }
    planned_ = node.input_count() > kPlan;
    size_t row = sizes_.rank * 2 * sizes_.heads;
    key_up_ = cuda::Buffer(row * sizes_.nope);
    value_up_ = cuda::Buffer(row * sizes_.value);
    OnDevice seen(parts.kv_b);
    cuda::check(latent_attention_pack(parts.kv_b.data, parts.kv_b.type.type == kFloat16, number(sizes_.heads),
                                      number(sizes_.nope), number(sizes_.value), number(sizes_.rank),
                                      key_up_.data(), value_up_.data(), nullptr),
                "the packing of kv_b");
    cuda::check(cudaStreamSynchronize(nullptr), "the packing of kv_b");
  }

  void run(const Run& run) const override {
    LatentStep in(run, sizes_);
    std::shared_ptr<AttentionPlan> given;
    if (planned_) given = given_plan(run, in);
    auto columns = static_cast<int64_t>(sizes_.heads * sizes_.value);
    auto y = static_cast<float*>(run.output(0, {in.tokens, columns}));
    void* rows = run.output(1, in.cache.type.dims);
    void* stream = run.stream();
    size_t cache_bytes = in.cache.type.count() * (fp8_ ? 1 : 2);
    std::vector<OnDevice> seen;
    for (const Tensor* tensor : {&in.query, &in.latent, &in.norm_weight, &in.cos, &in.sin, &in.cache}) {
      seen.emplace_back(*tensor);
    }
    seen.emplace_back(y, static_cast<size_t>(in.tokens * columns) * 4);
    if (rows != in.cache.data) {
      seen.emplace_back(rows, cache_bytes);
      count_cache_copy();
      cuda::check(cudaMemcpyAsync(rows, in.cache.data, cache_bytes, cuda::kWithinDevice, stream),
                  "cudaMemcpyAsync");
    }
    if (in.tokens == 0) return;

    // Queries before and after W_UK, their rotated part, and the result in the latent space: bf16.
    size_t vectors = static_cast<size_t>(in.tokens) * sizes_.heads;
    size_t parts[] = {vectors * sizes_.nope * 2, vectors * sizes_.rank * 2, vectors * sizes_.rope * 2,
                      vectors * sizes_.rank * 2};
    size_t bytes = parts[0] + parts[1] + parts[2] + parts[3];
    Scratch scratch = run.scratch(bytes);
    seen.emplace_back(scratch.data(), bytes);
    auto at = static_cast<uint8_t*>(scratch.data());

    AttentionPlan& plan = given ? *given : plan_of_queue<QueuePlan>(stream);
    std::lock_guard<std::mutex> lock(plan.mutex);
    if (!given) {
      StepBatch step = read_step_batch(run, kSlots, in.tokens, in.cache.dim(0), in.cache.dim(1));
      static_cast<QueuePlan&>(plan).prepare(step.batch, number(sizes_.heads),
                                            static_cast<uint32_t>(in.cache.dim(1)), stream);
    }
    plan.upload(this, stream);
    LatentAttentionStep step{};
    step.tokens = static_cast<uint32_t>(in.tokens);
    step.heads = number(sizes_.heads);
    step.nope = number(sizes_.nope);
    step.value = number(sizes_.value);
    step.rank = number(sizes_.rank);
    step.rotary = number(sizes_.rope);
    step.epsilon = sizes_.epsilon;
    step.cache_fp8 = fp8_;
    step.query = in.query.as<float>();
    step.latent = in.latent.as<float>();
    step.norm_weight = in.norm_weight.as<float>();
    step.cos = in.cos.as<float>();
    step.sin = in.sin.as<float>();
    step.slots = plan.slots();
    step.key_up = key_up_.data();
    step.value_up = value_up_.data();
    step.cache = rows;
    step.query_nope = at;
    step.query_latent = at += parts[0];
    step.query_rotary = at += parts[1];
    step.output = at += parts[2];
    step.y = y;
    cuda::check(latent_attention_prepare(&step, stream), place.c_str());
    LatentAttentionTensors tensors{step.query_latent, step.query_rotary, rows,        plan.block_indices(),
                                   step.output,       nullptr,           plan.ints(), plan.floats(),
                                   sizes_.scale,      /*cache_scale*/ 1, step.rank,   step.rotary};
    cuda::check(attend_(&plan.plan, &tensors, plan.causal, stream), place.c_str());
    cuda::check(latent_attention_project(&step, stream), place.c_str());
  }

 private:
  // The plan that the graph's input names; it was made of a checked step.
  std::shared_ptr<AttentionPlan> given_plan(const Run& run, const LatentStep& in) const {
    int32_t name = *run.input(kPlan, {1}).as<const int32_t>();
    auto plan = find_plan(name);
    if (!plan) throw run.error("there is no plan " + std::to_string(name) + ".");
    if (static_cast<int64_t>(plan->tokens) != in.tokens || plan->heads != sizes_.heads ||
        static_cast<int64_t>(plan->block_size) != in.cache.dim(1) ||
        static_cast<int64_t>(plan->blocks) != in.cache.dim(0)) {
      throw run.error("plan " + std::to_string(name) + " is that of another step.");
    }
    return plan;
  }

  static uint32_t number(size_t n) { return static_cast<uint32_t>(n); }

  cpu::LatentSizes sizes_;
  bool fp8_;
  bool planned_;
  AttentionKernel attend_;
  cuda::Buffer key_up_, value_up_;
};

}  // namespace

AttentionKernel attention_kernel(bool fp8, uint32_t latent, uint32_t rotary) {
  int major = cuda::attribute(cuda::kMajor), minor = cuda::attribute(cuda::kMinor);
  int shared = cuda::attribute(cuda::kSharedPerBlock);
  if (major < 8) return nullptr;
  AttentionKernel ours = nullptr;
  if (!latent_attention_generic_refusal(latent, rotary, fp8)) {
    ours = fp8 ? latent_attention_generic_fp8 : latent_attention_generic_bf16;
  }
  if (latent != LATENT_ATTENTION_LATENT || rotary != LATENT_ATTENTION_ROTARY) return ours;
  if (major == 9 && minor == 0) return fp8 ? latent_attention_sm90_fp8 : latent_attention_sm90_bf16;
  // What a block of these kernels takes.
  constexpr int kSm80Bf16 = 147968, kSm80Fp8 = 129536, kSm86Bf16 = 92672;
  if (fp8) return shared >= kSm80Fp8 ? latent_attention_sm80_fp8 : ours;
  if (shared >= kSm80Bf16) return latent_attention_sm80_bf16;
  return shared >= kSm86Bf16 ? latent_attention_sm86_bf16 : ours;
}

std::unique_ptr<Op> latent_attention_cuda(const OrtFunctions& ort) {
  // The step's indices are read on the host, for the plan, or that plan's number is.
  static const Schema schema = [] {
    Schema all = latent_schema(kAnyType);
    for (size_t i = kSlots; i < kCache; i++) all.inputs[i].host = true;
    all.inputs[kPlan].host = true;
    return all;
  }();
  return op_of<LatentAttentionCuda>(ort, schema, kCudaProvider);
}

}  // namespace hybridseek
