// PagedAttention on a CUDA device: caches of bf16, FlashInfer's kernels and ours.
#include <mutex>

#include "cuda_kernel.h"
#include "ops.h"
#include "paged_attention/paged_attention.h"
#include "paged_node.h"
#include "step_batch.h"

namespace hybridseek {

namespace {

constexpr size_t kFloatWorkspace = size_t{64} << 20, kTables = size_t{8} << 20;

// A step's plan and its tables on the device. The first layer of a step computes it, the others find it: it
// is theirs if the step's indices are the same, byte for byte.
class PagedPlan {
 public:
  // Held while a layer launches.
  std::mutex mutex;

  void prepare(const cpu::Batch& batch, const PagedStep& in, void* stream) {
    auto word = [](auto n) { return static_cast<int32_t>(n); };
    std::vector<int32_t> key =
        step_key(batch, {word(in.heads()), word(in.groups()), word(in.width()), word(in.value_width()),
                         word(in.block_size())});
    if (key == key_) return;
    key_.clear();  // until all has gone well
    std::vector<int32_t> starts{0}, lengths, block_starts{0}, indices(batch.slots, batch.slots + batch.tokens);
    for (size_t b = 0; b < batch.sequences; b++) {
      if (batch.query_starts[b + 1] == batch.query_starts[b]) continue;
      const int32_t* table = batch.block_tables + b * batch.table_width;
      int64_t blocks = (batch.context_lengths[b] + in.block_size() - 1) / in.block_size();
      indices.insert(indices.end(), table, table + blocks);
      starts.push_back(batch.query_starts[b + 1]);
      lengths.push_back(batch.context_lengths[b]);
      block_starts.push_back(block_starts.back() + word(blocks));
    }
    auto number = [](auto n) { return static_cast<uint32_t>(n); };
    plan = {};
    plan.tokens = number(batch.tokens);
    plan.sequences = number(lengths.size());
    plan.heads = number(in.heads());
    plan.groups = number(in.groups());
    plan.width = number(in.width());
    plan.value_width = number(in.value_width());
    plan.block_size = number(in.block_size());
    tables_.resize(kTables);
    cuda::check(paged_attention_plan(starts.data(), block_starts.data(), lengths.data(), tables_.data(), kTables,
                                     kFloatWorkspace, &plan),
                "the plan of PagedAttention");
    if (!ints.data()) {
      ints = cuda::Buffer(kTables);
      floats = cuda::Buffer(kFloatWorkspace);
    }
    if (indices_.bytes() < indices.size() * 4) indices_ = cuda::Buffer(indices.size() * 8);
    // From memory that is not pinned: the call has read it when it returns.
    auto copy = [&](void* to, const void* from, size_t bytes) {
      cuda::check(cudaMemcpyAsync(to, from, bytes, cuda::kToDevice, stream), "cudaMemcpyAsync");
    };
    copy(ints.data(), tables_.data(), plan.staged_bytes);
    copy(indices_.data(), indices.data(), indices.size() * 4);
    key_ = std::move(key);
  }

  PagedAttentionPlan plan{};
  cuda::Buffer ints, floats;
  const int32_t* slots() const { return static_cast<const int32_t*>(indices_.data()); }
  const int32_t* block_indices() const { return slots() + plan.tokens; }

 private:
  std::vector<int32_t> key_;
  std::vector<uint8_t> tables_;
  cuda::Buffer indices_;
};

class PagedAttentionCuda : public CudaKernel {
 public:
  explicit PagedAttentionCuda(const NodeInfo& node)
      : CudaKernel(node),
        scale_(node.number("scale")),
        interleaved_(node.integer("rotary_interleaved", 0) != 0) {
    if (node.type(kKeyCache) != kBfloat16 || node.type(kValueCache) != kBfloat16) {
      throw node.error("on CUDA, the caches must be bfloat16.");
    }
    auto size = [&](size_t input, size_t axis) { return static_cast<uint32_t>(node.known_size(input, axis)); };
    uint32_t groups = size(kKeyCache, 2), width = size(kKeyCache, 3);
    const char* refusal =
        paged_attention_refusal(size(kPagedQuery, 1) / width, groups, width, size(kValueCache, 3));
    if (refusal) throw node.error(std::string("on CUDA, ") + refusal + ".");
  }

  void run(const Run& run) const override {
    PagedStep in(run);
    StepBatch step = read_step_batch(run, kPagedSlots, in.tokens(), in.blocks(), in.block_size());
    int64_t columns = in.heads() * in.value_width();
    auto y = static_cast<float*>(run.output(0, {in.tokens(), columns}));
    void* stream = run.stream();
    std::vector<OnDevice> seen;
    for (const Tensor* tensor :
         {&in.query, &in.key, &in.value, &in.cos, &in.sin, &in.key_cache, &in.value_cache}) {
      seen.emplace_back(*tensor);
    }
    seen.emplace_back(y, static_cast<size_t>(in.tokens() * columns) * 4);
    auto written = [&](const Tensor& cache, size_t output) {
      void* rows = run.output(output, cache.type.dims);
      if (rows == cache.data) return rows;
      size_t bytes = cache.type.count() * 2;
      seen.emplace_back(rows, bytes);
      count_cache_copy();
      cuda::check(cudaMemcpyAsync(rows, cache.data, bytes, cuda::kWithinDevice, stream), "cudaMemcpyAsync");
      return rows;
    };
    PagedAttentionTensors tensors{};
    tensors.key_cache = written(in.key_cache, 1);
    tensors.value_cache = written(in.value_cache, 2);
    if (in.tokens() == 0) return;
    size_t bytes = in.query.type.count() * 2;
    Scratch rotated = run.scratch(bytes);
    seen.emplace_back(rotated.data(), bytes);

    PagedPlan& plan = plan_of_queue<PagedPlan>(stream);
    std::lock_guard<std::mutex> lock(plan.mutex);
    plan.prepare(step.batch, in, stream);
    tensors.query = in.query.as<float>();
    tensors.key = in.key.as<float>();
    tensors.value = in.value.as<float>();
    tensors.cos = in.cos.as<float>();
    tensors.sin = in.sin.as<float>();
    tensors.slots = plan.slots();
    tensors.block_indices = plan.block_indices();
    tensors.interleaved = interleaved_;
    tensors.rotated = rotated.data();
    tensors.y = y;
    tensors.int_workspace = plan.ints.data();
    tensors.float_workspace = plan.floats.data();
    tensors.scale = scale_;
    cuda::check(paged_attention_append(&plan.plan, &tensors, stream), place.c_str());
    cuda::check(paged_attention_attend(&plan.plan, &tensors, stream), place.c_str());
  }

 private:
  float scale_;
  int interleaved_;
};

}  // namespace

std::unique_ptr<Op> paged_attention_cuda(const OrtFunctions& ort) {
  // The step's indices are read on the host, for the plan.
  static const Schema schema = [] {
    Schema all = paged_schema(kAnyType);
    for (size_t i = kPagedSlots; i < kKeyCache; i++) all.inputs[i].host = true;
    return all;
  }();
  return op_of<PagedAttentionCuda>(ort, schema, kCudaProvider);
}

}  // namespace hybridseek
