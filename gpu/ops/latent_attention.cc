#include "latent_node.h"
#include "ops.h"
#include "step_batch.h"

namespace hybridseek {

namespace {

// y [T, H*V]: what kv_b's rows are beyond the query's nope dim.
void infer(const Shapes& shapes) {
  Dims query = shapes.input(kQuery, 2), kv_b = shapes.input(kKvB, 3), cos = shapes.input(kCos, 2);
  int64_t heads = kv_b[0], nope = query[1] / heads - 2 * cos[1];
  if (query[1] >= 0 && cos[1] >= 0) shapes.set_output(0, kFloat, {query[0], heads * (kv_b[1] - nope)}, kQuery);
  shapes.set_output(1, shapes.type(kCache), shapes.input(kCache, 4), kCache);
}

}  // namespace

Schema latent_schema(int cache) {
  Schema schema{"LatentAttention",
                {{"query", kFloat},
                 {"latent", kFloat},
                 {"norm_weight", kFloat},
                 {"kv_b", kAnyType},
                 {"cos", kFloat},
                 {"sin", kFloat}},
                {{"y", kFloat}, {"cache_out", cache}},
                infer};
  add_step_inputs(schema.inputs);
  schema.inputs.push_back({"cache", cache});
  schema.inputs.push_back({"plan", kInt32, /*optional*/ true});
  return schema;
}

LatentNode::LatentNode(const NodeInfo& node) : kv_b(node.weight(kKvB, {kFloat, kFloat16}, 3)) {
  int64_t heads = kv_b.dim(0), up = kv_b.dim(1), rank = kv_b.dim(2);
  int64_t query = node.known_size(kQuery, 1), row = node.known_size(kCache, 3);
  int64_t rope = row - rank, nope = query / heads - rope, value = up - nope;
  if (query % heads != 0 || rope < 0 || rope % 2 != 0 || nope < 1 || value < 1) {
    throw node.error("kv_b " + text_of(kv_b.type.dims) + " fits neither " + std::to_string(query) +
                     " query columns nor a cache row of " + std::to_string(row) + ".");
  }
  auto size = [](int64_t n) { return static_cast<size_t>(n); };
  sizes = {size(heads), size(nope), size(rope), size(rank), size(value), 0, node.number("scale"),
           node.number("epsilon", 1e-6f)};
}

LatentStep::LatentStep(const Run& run, const cpu::LatentSizes& sizes)
    : query(run.input(kQuery, {-1, static_cast<int64_t>(sizes.heads * (sizes.nope + sizes.rope))})),
      latent(run.input(kLatent, {query.dim(0), static_cast<int64_t>(sizes.rank + sizes.rope)})),
      norm_weight(run.input(kNormWeight, {static_cast<int64_t>(sizes.rank)})),
      cos(run.input(kCos, {query.dim(0), static_cast<int64_t>(sizes.rope / 2)})),
      sin(run.input(kSin, {query.dim(0), static_cast<int64_t>(sizes.rope / 2)})),
      cache(run.input(kCache, {-1, -1, 1, static_cast<int64_t>(sizes.rank + sizes.rope)})),
      tokens(query.dim(0)) {}

namespace {

class LatentAttention : public Kernel {
 public:
  explicit LatentAttention(const NodeInfo& node) : Kernel(node), kv_b_(nullptr, nullptr) {
    LatentNode parts(node);
    sizes_ = parts.sizes;
    format_ = parts.kv_b.type.type == kFloat ? cpu::kF32 : cpu::kF16;
    kv_b_ = allocate_bytes(cpu::hybridseek_kv_b_bytes(format_, sizes_));
    cpu::hybridseek_pack_kv_b(format_, sizes_, parts.kv_b.data, kv_b_.get());
  }

  void run(const Run& run) const override {
    LatentStep in(run, sizes_);
    StepBatch step = read_step_batch(run, kSlots, in.tokens, in.cache.dim(0), in.cache.dim(1));
    auto columns = static_cast<int64_t>(sizes_.heads * sizes_.value);
    auto y = static_cast<float*>(run.output(0, {in.tokens, columns}));
    float* rows = writable_cache(run, in.cache, 1);
    if (in.tokens == 0) return;
    cpu::LatentSizes sizes = sizes_;
    sizes.block_size = static_cast<size_t>(in.cache.dim(1));
    cpu::LatentPointers pointers{in.query.as<float>(), in.latent.as<float>(), in.norm_weight.as<float>(),
                                 kv_b_.get(),          format_,               in.cos.as<float>(),
                                 in.sin.as<float>(),   rows,                  in.cache.type.count(),
                                 y};
    size_t threads = most_threads();
    size_t bytes = cpu::hybridseek_latent_scratch_bytes(sizes, step.batch.tokens,
                                                        step.longest_context, threads);
    Scratch scratch = run.scratch(bytes);
    cpu::Pool pool;
    run.parallel(threads, [&](size_t thread) {
      cpu::Call call{&pool, thread, threads, scratch.data(), bytes};
      cpu::hybridseek_latent_attention(call, sizes, step.batch, pointers);
    });
  }

 private:
  cpu::LatentSizes sizes_;
  cpu::Format format_;
  Bytes kv_b_;
};

}  // namespace

std::unique_ptr<Op> latent_attention_cpu(const OrtFunctions& ort) {
  static const Schema schema = latent_schema(kFloat);
  return op_of<LatentAttention>(ort, schema, kCpuProvider);
}

}  // namespace hybridseek
