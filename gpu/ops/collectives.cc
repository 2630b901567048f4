// What ranks exchange inside a step. Letters: T rows, D columns, W ranks. `counts` says how many rows each rank
// has. The sharding pass puts these nodes into a graph (src/backend/native/sharding.ts); they have no body, so
// that an ONNX Runtime without this library refuses such a graph.
#include "../runtime/communicator.h"
#include "ops.h"

namespace hybridseek {

namespace {

// How many rows there are is known when a step runs; the graph itself says how they are called.
void unknown(const Shapes&) {}

// x [T, D] -> y [T, D]
const Schema& all_reduce_schema() {
  static const Schema schema{"AllReduce", {{"x", kFloat}}, {{"y", kFloat}}, [](const Shapes& shapes) {
                               shapes.set_output(0, kFloat, shapes.input(0, 2), 0);
                             }};
  return schema;
}

// x [counts[rank], D], counts [W] -> y [sum of counts, D]
const Schema& all_gather_schema() {
  static const Schema schema{
      "AllGather",
      {{"x", kFloat}, {"counts", kInt32, false, /*host*/ true}},
      {{"y", kFloat}},
      unknown};
  return schema;
}

// x [sum of counts, D], counts [W] -> y [counts[rank], D]
const Schema& reduce_scatter_schema() {
  static const Schema schema{
      "ReduceScatter",
      {{"x", kFloat}, {"counts", kInt32, false, /*host*/ true}},
      {{"y", kFloat}},
      unknown};
  return schema;
}

// x [sum of counts[rank], D], counts [W, W]: rows from one rank for another -> y [sum of counts[, rank], D]
const Schema& all_to_all_schema() {
  static const Schema schema{
      "AllToAll",
      {{"x", kFloat}, {"counts", kInt32, false, /*host*/ true}},
      {{"y", kFloat}},
      unknown};
  return schema;
}

class Collective : public Kernel {
 public:
  explicit Collective(const NodeInfo& node)
      : Kernel(node), ranks(find_communicator(node.integer("communicator", 0))) {
    if (!ranks) throw node.error("no ranks are joined in this process; open the model with several ranks.");
  }

 protected:
  // What is to be called by the constructor of a kernel whose tensors are in a GPU's memory.
  void use_device(const NodeInfo& node) {
    if (!ranks->takes_device_memory()) {
      throw node.error("its ranks exchange the host's memory; HYBRIDSEEK_NCCL must name NCCL's library.");
    }
    on_device_ = true;
  }

  void* stream(const Run& run) const { return on_device_ ? run.stream() : nullptr; }

  Tensor input(const Run& run) const { return run.input(0, {-1, -1}); }

  // Numbers of each rank, from `first` of its counts on in steps of `step`.
  std::vector<size_t> counts(const Run& run, const Tensor& counts, size_t first, size_t step,
                             int64_t columns) const {
    std::vector<size_t> numbers;
    for (int64_t rank = 0; rank < ranks->ranks; rank++) {
      int32_t rows = counts.as<const int32_t>()[first + static_cast<size_t>(rank) * step];
      if (rows < 0) throw run.error("counts has " + std::to_string(rows) + ", needed are no negative ones.");
      numbers.push_back(static_cast<size_t>(rows * columns));
    }
    return numbers;
  }

  static int64_t sum_of(const std::vector<size_t>& numbers) {
    size_t sum = 0;
    for (size_t number : numbers) sum += number;
    return static_cast<int64_t>(sum);
  }

  static void expect_rows(const Run& run, const Tensor& x, int64_t numbers) {
    if (x.dim(0) * x.dim(1) == numbers) return;
    throw run.error("x is " + text_of(x.type.dims) + ", counts want " + std::to_string(numbers) + " numbers.");
  }

  const std::shared_ptr<Communicator> ranks;

 private:
  bool on_device_ = false;
};

class AllReduce : public Collective {
 public:
  using Collective::Collective;
  void run(const Run& run) const override {
    Tensor x = input(run);
    auto y = static_cast<float*>(run.output(0, x.type.dims));
    ranks->all_reduce(x.as<const float>(), y, x.type.count(), stream(run));
  }
};

class AllGather : public Collective {
 public:
  using Collective::Collective;
  void run(const Run& run) const override {
    Tensor x = input(run), rows = run.input(1, {ranks->ranks});
    auto numbers = counts(run, rows, 0, 1, x.dim(1));
    expect_rows(run, x, static_cast<int64_t>(numbers[static_cast<size_t>(ranks->rank)]));
    int64_t total = 0;
    for (int64_t rank = 0; rank < ranks->ranks; rank++) total += rows.as<const int32_t>()[rank];
    auto y = static_cast<float*>(run.output(0, {total, x.dim(1)}));
    ranks->all_gather(x.as<const float>(), y, numbers, stream(run));
  }
};

class ReduceScatter : public Collective {
 public:
  using Collective::Collective;
  void run(const Run& run) const override {
    Tensor x = input(run), rows = run.input(1, {ranks->ranks});
    auto numbers = counts(run, rows, 0, 1, x.dim(1));
    expect_rows(run, x, sum_of(numbers));
    auto y = static_cast<float*>(run.output(0, {rows.as<const int32_t>()[ranks->rank], x.dim(1)}));
    ranks->reduce_scatter(x.as<const float>(), y, numbers, stream(run));
  }
};

class AllToAll : public Collective {
 public:
  using Collective::Collective;
  void run(const Run& run) const override {
    auto size = static_cast<size_t>(ranks->ranks), rank = static_cast<size_t>(ranks->rank);
    Tensor x = input(run), rows = run.input(1, {ranks->ranks, ranks->ranks});
    auto sent = counts(run, rows, rank * size, 1, x.dim(1));
    auto received = counts(run, rows, rank, size, x.dim(1));
    expect_rows(run, x, sum_of(sent));
    int64_t total = 0;
    for (size_t from = 0; from < size; from++) total += rows.as<const int32_t>()[from * size + rank];
    auto y = static_cast<float*>(run.output(0, {total, x.dim(1)}));
    ranks->all_to_all(x.as<const float>(), y, sent, received, stream(run));
  }
};

// The same op for tensors in a GPU's memory.
template <typename T>
class OnDevice : public T {
 public:
  explicit OnDevice(const NodeInfo& node) : T(node) { this->use_device(node); }
};

template <typename T>
void add(std::vector<std::unique_ptr<Op>>& ops, const OrtFunctions& ort, const Schema& schema) {
  ops.push_back(op_of<T>(ort, schema, kCpuProvider));
#ifndef HYBRIDSEEK_EMULATED_CUDA  // else the provider is the CPU's
  ops.push_back(op_of<OnDevice<T>>(ort, schema, kCudaProvider));
#endif
}

}  // namespace

std::vector<std::unique_ptr<Op>> collectives(const OrtFunctions& ort) {
  std::vector<std::unique_ptr<Op>> ops;
  add<AllReduce>(ops, ort, all_reduce_schema());
  add<AllGather>(ops, ort, all_gather_schema());
  add<ReduceScatter>(ops, ort, reduce_scatter_schema());
  add<AllToAll>(ops, ort, all_to_all_schema());
  return ops;
}

}  // namespace hybridseek
