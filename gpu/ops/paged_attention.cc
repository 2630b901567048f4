// Letters: T tokens, H query heads, G key heads, W key width, V value width, P tokens per block.
#include "ops.h"
#include "step_batch.h"

namespace hybridseek {

namespace {

enum Input { kQuery, kKey, kValue, kCos, kSin, kSlots, kKeyCache = 9, kValueCache };

// y [T, H*V], H by the width of a key.
void infer(const Shapes& shapes) {
  Dims query = shapes.input(kQuery, 2);
  Dims keys = shapes.input(kKeyCache, 4), values = shapes.input(kValueCache, 4);
  if (query[1] > 0 && keys[3] > 0 && values[3] > 0) {
    shapes.set_output(0, kFloat, {query[0], query[1] / keys[3] * values[3]}, kQuery);
  }
  shapes.set_output(1, kFloat, keys, kKeyCache);
  shapes.set_output(2, kFloat, values, kValueCache);
}

const Schema& schema() {
  static const Schema schema = [] {
    Schema s{"PagedAttention",
             {{"query", kFloat}, {"key", kFloat}, {"value", kFloat}, {"cos", kFloat}, {"sin", kFloat}},
             {{"y", kFloat}, {"key_cache_out", kFloat}, {"value_cache_out", kFloat}},
             infer};
    add_step_inputs(s.inputs);
    s.inputs.push_back({"key_cache", kFloat});
    s.inputs.push_back({"value_cache", kFloat});
    return s;
  }();
  return schema;
}

class PagedAttention : public Kernel {
 public:
  explicit PagedAttention(const NodeInfo& node)
      : Kernel(node),
        scale_(node.number("scale")),
        interleaved_(node.integer("rotary_interleaved", 0) != 0) {}

  void run(const Run& run) const override {
    Tensor keys = run.input(kKeyCache, {-1, -1, -1, -1});
    int64_t blocks = keys.dim(0), block_size = keys.dim(1), groups = keys.dim(2), width = keys.dim(3);
    Tensor values = run.input(kValueCache, {blocks, block_size, groups, -1});
    int64_t value_width = values.dim(3);
    Tensor query = run.input(kQuery, {-1, -1});
    int64_t tokens = query.dim(0);
    if (groups < 1 || width < 2 || width % 2 != 0 || value_width < 1 ||
        query.dim(1) < groups * width || query.dim(1) % (groups * width) != 0) {
      throw run.error("query " + text_of(query.type.dims) + " does not fit the cache " +
                      text_of(keys.type.dims) + ".");
    }
    int64_t heads = query.dim(1) / width;
    Tensor key = run.input(kKey, {tokens, groups * width});
    Tensor value = run.input(kValue, {tokens, groups * value_width});
    Tensor cos = run.input(kCos, {tokens, width / 2});
    Tensor sin = run.input(kSin, {tokens, width / 2});
    StepBatch step = read_step_batch(run, kSlots, tokens, blocks, block_size);
    auto y = static_cast<float*>(run.output(0, {tokens, heads * value_width}));
    float* key_rows = writable_cache(run, keys, 1);
    float* value_rows = writable_cache(run, values, 2);
    if (tokens == 0) return;
    auto size = [](int64_t n) { return static_cast<size_t>(n); };
    cpu::PagedSizes sizes{size(heads),      size(groups), size(width), size(value_width),
                          size(block_size), scale_,       interleaved_};
    cpu::PagedPointers pointers{query.as<float>(), key.as<float>(),     value.as<float>(),
                                cos.as<float>(),   sin.as<float>(),     key_rows,
                                keys.type.count(), value_rows,          values.type.count(),
                                y};
    size_t threads = most_threads();
    size_t bytes = cpu::hybridseek_paged_scratch_bytes(sizes, step.batch.tokens, step.longest_context,
                                                       threads);
    Scratch scratch = run.scratch(bytes);
    cpu::Pool pool;
    run.parallel(threads, [&](size_t thread) {
      cpu::Call call{&pool, thread, threads, scratch.data(), bytes};
      cpu::hybridseek_paged_attention(call, sizes, step.batch, pointers);
    });
  }

 private:
  float scale_;
  uint32_t interleaved_;
};

}  // namespace

std::unique_ptr<Op> paged_attention_cpu(const OrtFunctions& ort) {
  return op_of<PagedAttention>(ort, schema(), kCpuProvider);
}

}  // namespace hybridseek
