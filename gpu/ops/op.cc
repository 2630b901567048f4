#include "op.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace hybridseek {

namespace {

const char* type_name(int type) {
  switch (type) {
    case kFloat: return "float";
    case kUint8: return "uint8";
    case kInt32: return "int32";
    case kInt64: return "int64";
    case kFloat16: return "float16";
    case kBfloat16: return "bfloat16";
    case kFloat8: return "float8e4m3fn";
    default: return "another type";
  }
}

// Runs a part of the library that onnxruntime calls: an exception becomes a status.
template <typename F>
OrtStatus* guarded(const OrtFunctions& ort, F part) {
  try {
    part();
    return nullptr;
  } catch (const Error& error) {
    return ort.CreateStatus(error.code, error.what());
  } catch (const std::exception& error) {
    return ort.CreateStatus(kOrtFail, error.what());
  }
}

std::string name_of(const OrtFunctions& ort, const OrtKernelInfo* info) {
  size_t size = 0;
  OrtStatus* too_short = ort.KernelInfo_GetNodeName(info, nullptr, &size);
  if (too_short) ort.ReleaseStatus(too_short);
  std::string name(size, '\0');
  if (size > 0) check(ort, ort.KernelInfo_GetNodeName(info, name.data(), &size));
  while (!name.empty() && name.back() == '\0') name.pop_back();
  return name;
}

Tensor tensor_of(const OrtFunctions& ort, const char* name, const OrtValue* value) {
  Tensor tensor{name, TensorType::of_value(ort, value), nullptr};
  check(ort, ort.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  alignas(64) static char nothing[64];
  if (!tensor.data) tensor.data = nothing;  // an empty tensor may have no memory, a slice needs an address
  return tensor;
}

// OrtMemTypeCPUInput, and what lies on the kernel's device.
constexpr int kOnHost = -2, kOnDevice = 0;

const Op& self(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }

}  // namespace

Dims Shapes::input(size_t index, size_t rank) const {
  OrtTensorInfo* info = nullptr;  // the context's own
  check(ort_, ort_.ShapeInferContext_GetInputTypeShape(context_, index, &info));
  Dims dims = TensorType(ort_, info).dims;
  if (dims.size() != rank) throw Error(kOrtInvalidArgument, "a shape is not known");
  return dims;
}

int Shapes::type(size_t index) const {
  OrtTensorInfo* info = nullptr;  // the context's own
  check(ort_, ort_.ShapeInferContext_GetInputTypeShape(context_, index, &info));
  return TensorType(ort_, info).type;
}

void Shapes::set_output(size_t index, int type, const Dims& dims, size_t like) const {
  OrtTensorInfo *named = nullptr, *info = nullptr;
  check(ort_, ort_.ShapeInferContext_GetInputTypeShape(context_, like, &named));
  std::vector<const char*> names(dims.size(), "");
  check(ort_, ort_.GetSymbolicDimensions(named, names.data(), names.size()));
  for (size_t i = 0; i < dims.size(); i++) {
    if (dims[i] >= 0) {
      names[i] = "";
    } else if (!names[i] || !*names[i]) {
      throw Error(kOrtInvalidArgument, "a size is not known");
    }
  }
  check(ort_, ort_.CreateTensorTypeAndShapeInfo(&info));
  Owned<OrtTensorInfo> owned(info, ort_.ReleaseTensorTypeAndShapeInfo);
  check(ort_, ort_.SetTensorElementType(info, type));
  check(ort_, ort_.SetDimensions(info, dims.data(), dims.size()));
  check(ort_, ort_.SetSymbolicDimensions(info, names.data(), names.size()));
  check(ort_, ort_.ShapeInferContext_SetOutputTypeShape(context_, index, info));
}

NodeInfo::NodeInfo(const OrtFunctions& ort, const Schema& schema, const OrtKernelInfo* info)
    : ort_(ort), schema_(schema), info_(info) {
  check(ort, ort.KernelInfo_GetInputCount(info, &input_count_));
  place_ = std::string(schema.name) + " \"" + name_of(ort, info) + "\"";
}

Error NodeInfo::error(const std::string& message) const {
  return Error(kOrtInvalidArgument, "Cannot open " + place_ + ": " + message);
}

int64_t NodeInfo::integer(const char* name, int64_t otherwise) const {
  int64_t value = 0;
  OrtStatus* missing = ort_.KernelInfoGetAttribute_int64(info_, name, &value);
  if (!missing) return value;
  ort_.ReleaseStatus(missing);
  return otherwise;
}

float NodeInfo::number(const char* name, float otherwise) const {
  float value = 0;
  OrtStatus* missing = ort_.KernelInfoGetAttribute_float(info_, name, &value);
  if (!missing) return value;
  ort_.ReleaseStatus(missing);
  return otherwise;
}

float NodeInfo::number(const char* name) const {
  float value = 0;
  OrtStatus* missing = ort_.KernelInfoGetAttribute_float(info_, name, &value);
  if (!missing) return value;
  ort_.ReleaseStatus(missing);
  throw error(std::string("it has no attribute ") + name + ".");
}

TensorType NodeInfo::input_type(size_t index) const {
  OrtTypeInfo* info = nullptr;
  check(ort_, ort_.KernelInfo_GetInputTypeInfo(info_, index, &info));
  Owned<OrtTypeInfo> owned(info, ort_.ReleaseTypeInfo);
  const OrtTensorInfo* tensor = nullptr;
  check(ort_, ort_.CastTypeInfoToTensorInfo(info, &tensor));
  return TensorType(ort_, tensor);
}

int NodeInfo::type(size_t index) const { return input_type(index).type; }

int64_t NodeInfo::known_size(size_t index, size_t axis) const {
  TensorType type = input_type(index);
  if (type.dims.size() <= axis || type.dims[axis] < 1) {
    throw error(std::string("the graph does not say size ") + std::to_string(axis) + " of input " +
                schema_.inputs[index].name + ", which its kernel is made for.");
  }
  return type.dims[axis];
}

Tensor NodeInfo::weight(size_t index, std::initializer_list<int> types, size_t rank) const {
  const char* name = schema_.inputs[index].name;
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(ort_, ort_.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  if (!is_constant || !value) {
    throw error(std::string("input ") + name + " must be stored in the model.");
  }
  Tensor tensor = tensor_of(ort_, name, value);
  if (std::find(types.begin(), types.end(), tensor.type.type) == types.end()) {
    std::string wanted;
    for (int type : types) wanted += std::string(wanted.empty() ? "" : " or ") + type_name(type);
    throw error(std::string("input ") + name + " is " + type_name(tensor.type.type) + ", not " +
                wanted + ".");
  }
  if (tensor.type.dims.size() != rank || tensor.type.count() == 0) {
    throw error(std::string("input ") + name + " is " + text_of(tensor.type.dims) + ", it must have " +
                std::to_string(rank) + " sizes above 0.");
  }
  return tensor;
}

Scratch::Scratch(const OrtFunctions& ort, const OrtKernelContext* context,
                 const OrtMemoryInfo* memory, size_t bytes)
    : ort_(ort), allocator_(nullptr, ort.ReleaseAllocator) {
  OrtAllocator* allocator = nullptr;
  check(ort, ort.KernelContext_GetAllocator(context, memory, &allocator));
  allocator_.reset(allocator);
  check(ort, ort.AllocatorAlloc(allocator, bytes, &data_));
}

Scratch::~Scratch() {
  if (OrtStatus* status = ort_.AllocatorFree(allocator_.get(), data_)) ort_.ReleaseStatus(status);
}

Kernel::Kernel(const NodeInfo& node, OrtMemoryInfo* given)
    : ort(node.ort()),
      schema(node.schema()),
      place(node.place()),
      memory(
          [&] {
            OrtMemoryInfo* info = given;
            if (info) return info;
            check(ort, ort.CreateCpuMemoryInfo(/*arena*/ 1, /*default memory*/ 0, &info));
            return info;
          }(),
          ort.ReleaseMemoryInfo) {}

Error Run::error(const std::string& message) const {
  return Error(kOrtInvalidArgument, "Cannot run " + kernel_.place + ": " + message);
}

Tensor Run::input(size_t index, const Dims& dims) const {
  const OrtFunctions& ort = kernel_.ort;
  const OrtValue* value = nullptr;
  check(ort, ort.KernelContext_GetInput(context_, index, &value));
  Tensor tensor = tensor_of(ort, kernel_.schema.inputs[index].name, value);
  const Dims& got = tensor.type.dims;
  bool fits = got.size() == dims.size();
  for (size_t i = 0; fits && i < dims.size(); i++) fits = dims[i] == -1 || dims[i] == got[i];
  if (!fits) {
    throw error(std::string("input ") + tensor.name + " is " + text_of(got) + ", it must be " +
                text_of(dims) + ", where -1 is any size.");
  }
  return tensor;
}

void* Run::output(size_t index, const Dims& dims) const {
  const OrtFunctions& ort = kernel_.ort;
  OrtValue* value = nullptr;
  check(ort, ort.KernelContext_GetOutput(context_, index, dims.data(), dims.size(), &value));
  if (!value) return nullptr;
  void* data = nullptr;
  check(ort, ort.GetTensorMutableData(value, &data));
  return data;
}

Scratch Run::scratch(size_t bytes) const {
  return Scratch(kernel_.ort, context_, kernel_.memory.get(), bytes);
}

void* Run::stream() const {
  void* stream = nullptr;
  check(kernel_.ort, kernel_.ort.KernelContext_GetGPUComputeStream(context_, &stream));
  return stream;
}

void Run::parallel(size_t count, const std::function<void(size_t)>& work) const {
  auto call = [](void* user, size_t thread) {
    (*static_cast<const std::function<void(size_t)>*>(user))(thread);
  };
  void* user = const_cast<std::function<void(size_t)>*>(&work);
  check(kernel_.ort, kernel_.ort.KernelContext_ParallelFor(context_, call, count, 0, user));
}

Op::Op(const OrtFunctions& ort, const Schema& schema, const char* provider, Create create)
    : OrtCustomOp{}, ort(ort), schema(schema), provider(provider), create(create) {
  version = kOrtApiVersion;
  GetName = [](const OrtCustomOp* op) { return self(op).schema.name; };
  GetExecutionProviderType = [](const OrtCustomOp* op) { return self(op).provider; };
  GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).schema.inputs.size(); };
  GetInputType = [](const OrtCustomOp* op, size_t i) { return self(op).schema.inputs[i].type; };
  GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) {
    return static_cast<int>(self(op).schema.inputs[i].optional);
  };
  GetInputMemoryType = [](const OrtCustomOp* op, size_t i) {
    return self(op).schema.inputs[i].host ? kOnHost : kOnDevice;
  };
  GetOutputTypeCount = [](const OrtCustomOp* op) { return self(op).schema.outputs.size(); };
  GetOutputType = [](const OrtCustomOp* op, size_t i) { return self(op).schema.outputs[i].type; };
  GetOutputCharacteristic = [](const OrtCustomOp* op, size_t i) {
    return static_cast<int>(self(op).schema.outputs[i].optional);
  };
  GetVariadicInputMinArity = GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
  GetVariadicOutputMinArity = GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp*) { return INT32_MAX; };
  InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeContext* context) {
    const OrtFunctions& ort = self(op).ort;
    // What is not known yet is checked when the node runs.
    OrtStatus* unknown = guarded(ort, [&] { self(op).schema.infer(Shapes(ort, context)); });
    if (unknown) ort.ReleaseStatus(unknown);
    return static_cast<OrtStatus*>(nullptr);
  };
  CreateKernelV2 = [](const OrtCustomOp* op, const void*, const OrtKernelInfo* info, void** kernel) {
    const OrtFunctions& ort = self(op).ort;
    return guarded(ort, [&] {
      *kernel = self(op).create(NodeInfo(ort, self(op).schema, info)).release();
    });
  };
  KernelComputeV2 = [](void* pointer, OrtKernelContext* context) {
    auto& kernel = *static_cast<const Kernel*>(pointer);
    return guarded(kernel.ort, [&] { kernel.run(Run(kernel, context)); });
  };
  KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

size_t most_threads() {
  static const size_t count = [] {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return size_t{1};
    return static_cast<size_t>(std::clamp(CPU_COUNT(&allowed), 1, 64));
  }();
  return count;
}

Bytes allocate_bytes(size_t count) {
  void* memory = std::aligned_alloc(64, (count + 63) / 64 * 64);
  if (!memory) throw std::bad_alloc();
  return Bytes(static_cast<uint8_t*>(memory), std::free);
}

}  // namespace hybridseek
