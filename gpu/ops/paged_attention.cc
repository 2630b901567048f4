// Letters: T tokens, H query heads, G key heads, W key width, V value width, P tokens per block.
#include "ops.h"
#include "paged_node.h"
#include "step_batch.h"

namespace hybridseek {

namespace {

// y [T, H*V], H by the width of a key.
void infer(const Shapes& shapes) {
  Dims query = shapes.input(kPagedQuery, 2);
  Dims keys = shapes.input(kKeyCache, 4), values = shapes.input(kValueCache, 4);
  if (query[1] > 0 && keys[3] > 0 && values[3] > 0) {
    shapes.set_output(0, kFloat, {query[0], query[1] / keys[3] * values[3]}, kPagedQuery);
  }
  shapes.set_output(1, shapes.type(kKeyCache), keys, kKeyCache);
  shapes.set_output(2, shapes.type(kValueCache), values, kValueCache);
}

}  // namespace

Schema paged_schema(int cache) {
  Schema schema{"PagedAttention",
                {{"query", kFloat}, {"key", kFloat}, {"value", kFloat}, {"cos", kFloat}, {"sin", kFloat}},
                {{"y", kFloat}, {"key_cache_out", cache}, {"value_cache_out", cache}},
                infer};
  add_step_inputs(schema.inputs);
  schema.inputs.push_back({"key_cache", cache});
  schema.inputs.push_back({"value_cache", cache});
  return schema;
}

PagedStep::PagedStep(const Run& run)
    : key_cache(run.input(kKeyCache, {-1, -1, -1, -1})),
      value_cache(run.input(kValueCache, {blocks(), block_size(), groups(), -1})),
      query(fitting_query(run)),
      key(run.input(kKey, {tokens(), groups() * width()})),
      value(run.input(kValue, {tokens(), groups() * value_width()})),
      cos(run.input(kPagedCos, {tokens(), width() / 2})),
      sin(run.input(kPagedSin, {tokens(), width() / 2})) {}

Tensor PagedStep::fitting_query(const Run& run) const {
  Tensor found = run.input(kPagedQuery, {-1, -1});
  if (groups() < 1 || width() < 2 || width() % 2 != 0 || value_width() < 1 ||
      found.dim(1) < groups() * width() || found.dim(1) % (groups() * width()) != 0) {
    throw run.error("query " + text_of(found.type.dims) + " does not fit the cache " +
                    text_of(key_cache.type.dims) + ".");
  }
  return found;
}

namespace {

class PagedAttention : public Kernel {
 public:
  explicit PagedAttention(const NodeInfo& node)
      : Kernel(node),
        scale_(node.number("scale")),
        interleaved_(node.integer("rotary_interleaved", 0) != 0) {}

  void run(const Run& run) const override {
    PagedStep in(run);
    StepBatch step = read_step_batch(run, kPagedSlots, in.tokens(), in.blocks(), in.block_size());
    auto y = static_cast<float*>(run.output(0, {in.tokens(), in.heads() * in.value_width()}));
    float* key_rows = writable_cache(run, in.key_cache, 1);
    float* value_rows = writable_cache(run, in.value_cache, 2);
    if (in.tokens() == 0) return;
    auto size = [](int64_t n) { return static_cast<size_t>(n); };
    cpu::PagedSizes sizes{size(in.heads()),       size(in.groups()),     size(in.width()),
                          size(in.value_width()), size(in.block_size()), scale_,
                          interleaved_};
    cpu::PagedPointers pointers{in.query.as<float>(),
                                in.key.as<float>(),
                                in.value.as<float>(),
                                in.cos.as<float>(),
                                in.sin.as<float>(),
                                key_rows,
                                in.key_cache.type.count(),
                                value_rows,
                                in.value_cache.type.count(),
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
  static const Schema schema = paged_schema(kFloat);
  return op_of<PagedAttention>(ort, schema, kCpuProvider);
}

}  // namespace hybridseek
