// The overloads `float`, `int8` and `int4` differ in their inputs, by which they are told apart: the number of
// them, and the bytes of a row.
#include <atomic>
#include <thread>

#include "experts_node.h"
#include "ops.h"

namespace hybridseek {

namespace {

// Where the overloads with scales go on, and the one without.
enum { kDown = 3, kGateUpScales = 3, kScaledDown, kDownScales };

int64_t blocks(int64_t columns) { return (columns + 31) / 32; }

// Elements of a row as the model stores it.
int64_t row_size(cpu::Format format, int64_t columns) {
  if (format == cpu::kInt8) return blocks(columns) * 32;
  if (format == cpu::kInt4) return blocks(columns) * 16;
  return columns;
}

bool has_scales(const NodeInfo& node) { return node.input_count() > kScaledDown; }

}  // namespace

const Schema& experts_schema() {
  static const Schema schema{
      "SparseExperts",
      {{"x", kFloat},
       {"router", kFloat},
       {"gate_up", kAnyType},
       {"down or gate_up_scales", kAnyType},
       {"down", kAnyType, true},
       {"down_scales", kAnyType, true}},
      {{"y", kFloat}, {"experts", kInt32, true}, {"weights", kFloat, true}},
      [](const Shapes& shapes) { shapes.set_output(0, kFloat, shapes.input(kExpertsX, 2), kExpertsX); }};
  return schema;
}

ExpertsNode::ExpertsNode(const NodeInfo& node)
    : router(node.weight(kExpertsRouter, {kFloat}, 2)),
      gate_up(has_scales(node) ? node.weight(kExpertsGateUp, {kUint8}, 3)
                               : node.weight(kExpertsGateUp, {kFloat, kFloat16}, 3)),
      down(has_scales(node) ? node.weight(kScaledDown, {kUint8}, 3)
                            : node.weight(kDown, {gate_up.type.type}, 3)) {
  bool scaled = has_scales(node);
  int64_t experts = router.dim(0), hidden = router.dim(1);
  int64_t held = gate_up.dim(0), width = gate_up.dim(1) / 2;
  cpu::Format format = !scaled ? (gate_up.type.type == kFloat ? cpu::kF32 : cpu::kF16)
                       : gate_up.dim(2) == blocks(hidden) * 32 ? cpu::kInt8
                                                               : cpu::kInt4;
  auto expect = [&](const Tensor& tensor, const Dims& dims) {
    if (tensor.type.dims == dims) return;
    throw node.error(std::string(tensor.name) + " is " + text_of(tensor.type.dims) +
                     ", it must be " + text_of(dims) + ".");
  };
  expect(gate_up, {held, 2 * width, row_size(format, hidden)});
  expect(down, {held, hidden, row_size(format, width)});
  if (scaled) {
    gate_up_scales = node.weight(kGateUpScales, {kFloat16}, 3);
    down_scales = node.weight(kDownScales, {kFloat16}, 3);
    expect(*gate_up_scales, {held, 2 * width, blocks(hidden)});
    expect(*down_scales, {held, hidden, blocks(width)});
  }
  auto range = [&](const char* name, int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return static_cast<size_t>(value);
    throw node.error(std::string(name) + " is " + std::to_string(value) + ", it can be " +
                     std::to_string(least) + " to " + std::to_string(most) + ".");
  };
  size_t groups = range("groups", node.integer("groups", 1), 1, std::min<int64_t>(experts, 256));
  if (experts % groups != 0) throw node.error("groups does not divide the experts.");
  size_t top_groups = range("top_groups", node.integer("top_groups", 1), 1, groups);
  int64_t selectable = experts / static_cast<int64_t>(groups) * static_cast<int64_t>(top_groups);
  size_t k = range("k", node.integer("k", 0), 1, selectable);
  size_t first = range("first_expert", node.integer("first_expert", 0), 0, experts - held);
  auto size = [](int64_t n) { return static_cast<size_t>(n); };
  sizes = {size(hidden), size(width), size(experts),
            first,        size(held),  k,
            groups,       top_groups,  node.number("scaling", 1),
            node.integer("normalize", 0) != 0, format};
}

namespace {

// The experts' matrices of one kind, [held, rows, columns], as they lie in the model.
struct Stack {
  size_t rows, columns;
  const uint8_t* levels;
  size_t level_bytes;
  const uint8_t* scales = nullptr;
  size_t scale_bytes = 0;
};

class SparseExperts : public Kernel {
 public:
  explicit SparseExperts(const NodeInfo& node)
      : Kernel(node), router_(nullptr, nullptr), packed_(nullptr, nullptr) {
    ExpertsNode parts(node);
    sizes_ = parts.sizes;
    Stack gate_ups = stack_of(parts.gate_up, 2 * sizes_.width, sizes_.hidden);
    Stack downs = stack_of(parts.down, sizes_.hidden, sizes_.width);
    if (parts.gate_up_scales) {
      add_scales(gate_ups, *parts.gate_up_scales);
      add_scales(downs, *parts.down_scales);
    }
    router_ = allocate_bytes(cpu::hybridseek_packed_bytes(cpu::kF32, sizes_.experts, sizes_.hidden));
    cpu::hybridseek_pack(cpu::kF32, sizes_.experts, sizes_.hidden, parts.router.data, nullptr, router_.get());
    pack(gate_ups, downs);
  }

  void run(const Run& run) const override {
    Tensor x = run.input(kExpertsX, {-1, static_cast<int64_t>(sizes_.hidden)});
    int64_t tokens = x.dim(0), k = sizes_.k;
    auto y = static_cast<float*>(run.output(0, x.type.dims));
    auto chosen = static_cast<int32_t*>(run.output(1, {tokens, k}));
    auto weights = static_cast<float*>(run.output(2, {tokens, k}));
    if (tokens == 0) return;
    size_t threads = most_threads();
    size_t bytes = cpu::hybridseek_experts_scratch_bytes(sizes_, tokens, threads);
    Scratch scratch = run.scratch(bytes);
    // Where the kernel writes outputs that nobody wants.
    std::vector<int32_t> no_experts(chosen ? 0 : tokens * k);
    std::vector<float> no_weights(weights ? 0 : tokens * k);
    cpu::ExpertsPointers pointers{static_cast<size_t>(tokens),
                                  x.as<float>(),
                                  router_.get(),
                                  places_.data(),
                                  y,
                                  chosen ? chosen : no_experts.data(),
                                  weights ? weights : no_weights.data()};
    cpu::Pool pool;
    run.parallel(threads, [&](size_t thread) {
      cpu::Call call{&pool, thread, threads, scratch.data(), bytes};
      cpu::hybridseek_sparse_experts(call, sizes_, pointers);
    });
  }

 private:
  static Stack stack_of(const Tensor& tensor, size_t rows, size_t columns) {
    size_t element = tensor.type.type == kFloat ? 4 : tensor.type.type == kFloat16 ? 2 : 1;
    size_t bytes = tensor.type.count() / static_cast<size_t>(tensor.dim(0)) * element;
    return {rows, columns, tensor.as<uint8_t>(), bytes};
  }

  static void add_scales(Stack& stack, const Tensor& scales) {
    stack.scales = scales.as<uint8_t>();
    stack.scale_bytes = scales.type.count() / static_cast<size_t>(scales.dim(0)) * 2;
  }

  // Packs all experts, on several threads: they are most of a model.
  void pack(const Stack& gate_ups, const Stack& downs) {
    auto bytes_of = [&](const Stack& s) {
      return cpu::hybridseek_packed_bytes(sizes_.format, s.rows, s.columns);
    };
    size_t gate_up_bytes = bytes_of(gate_ups), bytes = gate_up_bytes + bytes_of(downs);
    packed_ = allocate_bytes(sizes_.held * bytes);
    for (size_t e = 0; e < sizes_.held; e++) {
      auto address = reinterpret_cast<uint64_t>(packed_.get() + e * bytes);
      places_.push_back({address, address + gate_up_bytes, 0});
    }
    std::atomic<size_t> next{0};
    auto pack_one = [&](const Stack& s, size_t e, uint64_t address) {
      cpu::hybridseek_pack(sizes_.format, s.rows, s.columns, s.levels + e * s.level_bytes,
                           s.scales ? s.scales + e * s.scale_bytes : nullptr,
                           reinterpret_cast<uint8_t*>(address));
    };
    auto work = [&] {
      for (size_t e; (e = next.fetch_add(1)) < sizes_.held;) {
        pack_one(gate_ups, e, places_[e].gate_up);
        pack_one(downs, e, places_[e].down);
      }
    };
    std::vector<std::thread> others;
    for (size_t i = 1; i < std::min(most_threads(), sizes_.held); i++) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
  }

  cpu::ExpertsSizes sizes_;
  Bytes router_;
  Bytes packed_;
  std::vector<cpu::ExpertPlace> places_;
};

}  // namespace

std::unique_ptr<Op> sparse_experts_cpu(const OrtFunctions& ort) {
  return op_of<SparseExperts>(ort, experts_schema(), kCpuProvider);
}

std::unique_ptr<Op> sparse_experts_host(const OrtFunctions& ort) {
  static const Schema schema = [] {
    Schema same = experts_schema();
    same.name = "HostSparseExperts";
    return same;
  }();
  return op_of<SparseExperts>(ort, schema, kCpuProvider);
}

}  // namespace hybridseek
