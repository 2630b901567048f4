// From a C++ class to an op that onnxruntime runs. An op of the domain has one name and one schema, and one
// entry for each execution provider that has a kernel of it.
#pragma once

#include <functional>
#include <initializer_list>

#include "../abi/ort.h"

namespace hybridseek {

// An input or output of an op.
struct Argument {
  const char* name;
  int type;
  bool optional = false;
  // An input that a kernel on a device reads on the host.
  bool host = false;
};

// What a graph says of a node's shapes while it is loaded. -1 is a size that varies.
class Shapes {
 public:
  Shapes(const OrtFunctions& ort, OrtShapeContext* context) : ort_(ort), context_(context) {}
  // Throws if the graph does not say it.
  Dims input(size_t index, size_t rank) const;
  int type(size_t index) const;
  // Sizes that vary have the names of those of input `like` on the same axes: onnxruntime takes values whose
  // sizes have the same names to be of the same size.
  void set_output(size_t index, int type, const Dims& dims, size_t like = 0) const;

 private:
  const OrtFunctions& ort_;
  OrtShapeContext* context_;
};

// What an op takes and gives, for all providers.
struct Schema {
  const char* name;
  std::vector<Argument> inputs;
  std::vector<Argument> outputs;
  // Tells the shapes of outputs. Nodes behind this one learn theirs from it.
  void (*infer)(const Shapes&);
};

// A tensor of a node, with its name for messages.
struct Tensor {
  const char* name;
  TensorType type;
  void* data;

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t dim(size_t i) const { return type.dims[i]; }
};

// A node while its kernel is made.
class NodeInfo {
 public:
  NodeInfo(const OrtFunctions& ort, const Schema& schema, const OrtKernelInfo* info);

  const OrtFunctions& ort() const { return ort_; }
  size_t input_count() const { return input_count_; }
  int64_t integer(const char* name, int64_t otherwise) const;
  float number(const char* name) const;
  float number(const char* name, float otherwise) const;
  // What the graph says of an input; its size `axis` must be known.
  int64_t known_size(size_t index, size_t axis) const;
  // The element type of an input.
  int type(size_t index) const;
  // A weight; it must be stored in the model.
  Tensor weight(size_t index, std::initializer_list<int> types, size_t rank) const;
  // An error that names the node.
  Error error(const std::string& message) const;
  const std::string& place() const { return place_; }
  const Schema& schema() const { return schema_; }

 private:
  TensorType input_type(size_t index) const;

  const OrtFunctions& ort_;
  const Schema& schema_;
  const OrtKernelInfo* info_;
  size_t input_count_ = 0;
  std::string place_;
};

// Temporary memory of the kernel's device from the session's own allocator, which keeps it for the next kernel.
class Scratch {
 public:
  Scratch(const OrtFunctions& ort, const OrtKernelContext* context, const OrtMemoryInfo* memory,
          size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }

 private:
  const OrtFunctions& ort_;
  Owned<OrtAllocator> allocator_;
  void* data_ = nullptr;
};

class Kernel;

// A node while it runs.
class Run {
 public:
  Run(const Kernel& kernel, OrtKernelContext* context) : kernel_(kernel), context_(context) {}

  // An input; its shape must be `dims`, where -1 takes any size.
  Tensor input(size_t index, const Dims& dims) const;
  // An output; its data is null where nobody wants it.
  void* output(size_t index, const Dims& dims) const;
  Scratch scratch(size_t bytes) const;
  // The device's queue that a kernel launches on; null on CPUs.
  void* stream() const;
  // Calls `work(thread)` for the threads 0 ... count - 1 of the session's pool. They may come late, one
  // after the other, or at once.
  void parallel(size_t count, const std::function<void(size_t)>& work) const;
  Error error(const std::string& message) const;

 private:
  const Kernel& kernel_;
  OrtKernelContext* context_;
};

// A kernel of one node.
class Kernel {
 public:
  // Without `memory`: a kernel on the CPU.
  explicit Kernel(const NodeInfo& node, OrtMemoryInfo* memory = nullptr);
  virtual ~Kernel() = default;
  virtual void run(const Run& run) const = 0;

  const OrtFunctions& ort;
  const Schema& schema;
  const std::string place;
  const Owned<OrtMemoryInfo> memory;
};

// An entry: a schema and a provider's kernel of it, for one library of onnxruntime.
struct Op : OrtCustomOp {
  using Create = std::unique_ptr<Kernel> (*)(const NodeInfo&);
  Op(const OrtFunctions& ort, const Schema& schema, const char* provider, Create create);

  const OrtFunctions& ort;
  const Schema& schema;
  const char* provider;
  Create create;
};

constexpr const char* kCpuProvider = "CPUExecutionProvider";
// Tests have the CUDA kernels on the emulated runtime, whose device's memory is the host's.
#ifdef HYBRIDSEEK_EMULATED_CUDA
constexpr const char* kCudaProvider = kCpuProvider;
#else
constexpr const char* kCudaProvider = "CUDAExecutionProvider";
#endif

// Makes an entry of a class of kernels.
template <typename T>
std::unique_ptr<Op> op_of(const OrtFunctions& ort, const Schema& schema, const char* provider) {
  auto create = [](const NodeInfo& node) -> std::unique_ptr<Kernel> { return std::make_unique<T>(node); };
  return std::make_unique<Op>(ort, schema, provider, create);
}

// How many threads a kernel is offered: as many as this process may use, at most 64.
size_t most_threads();

// Memory that begins at a multiple of 64.
using Bytes = std::unique_ptr<uint8_t[], void (*)(void*)>;
Bytes allocate_bytes(size_t count);

}  // namespace hybridseek
