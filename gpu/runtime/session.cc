#include "session.h"

#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>

extern "C" hybridseek::OrtStatus* RegisterCustomOps(hybridseek::OrtSessionOptions*,
                                                    const hybridseek::OrtApiBase*);

namespace hybridseek {

namespace {

// What is logged: no errors, which are thrown.
constexpr int kFatal = 4;

size_t element_bytes(int type) {
  switch (type) {
    case kFloat:
    case kInt32: return 4;
    case kFloat16: return 2;
    case kUint8: return 1;
    default: throw Error(kOrtInvalidArgument, "Cannot make a tensor: no such type.");
  }
}

size_t bytes_of(int type, const Dims& dims) {
  size_t bytes = element_bytes(type);
  for (int64_t size : dims) {
    if (size < 0 || __builtin_mul_overflow(bytes, static_cast<size_t>(size), &bytes)) {
      throw Error(kOrtInvalidArgument, "Cannot make a tensor of shape " + text_of(dims) + ".");
    }
  }
  return bytes;
}

}  // namespace

const Runtime& Runtime::open(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Runtime>> opened;
  std::lock_guard<std::mutex> lock(mutex);
  auto known = opened.find(path);
  if (known != opened.end()) return *known->second;
  std::unique_ptr<Runtime> runtime(new Runtime(path));
  return *opened.emplace(path, std::move(runtime)).first->second;
}

Runtime::Runtime(const std::string& path) : path_(path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw Error(kOrtFail, dlerror());
  auto get_base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
  if (!get_base) throw Error(kOrtFail, path + " is no library of onnxruntime.");
  base_ = get_base();
  const void* table = base_->GetApi(kOrtApiVersion);
  if (!table) return;
  ort_ = std::make_unique<OrtFunctions>(table);
  check(*ort_, ort_->CreateEnv(kFatal, "hybridseek", &env_));
  check(*ort_, ort_->CreateCpuMemoryInfo(/*arena*/ 1, /*default memory*/ 0, &cpu_));
}

const OrtFunctions& Runtime::ort() const {
  if (!ort_) throw Error(kOrtNotImplemented, path_ + " is too old.");
  return *ort_;
}

DeviceTensor::DeviceTensor(const Runtime& runtime, const std::string& device, int type,
                           const Dims& dims)
    : value_(nullptr, runtime.ort().ReleaseValue), bytes_(bytes_of(type, dims)) {
  if (device != "cpu") {
    throw Error(kOrtInvalidArgument, "Cannot make a tensor on " + device + ": the device is cpu.");
  }
  const OrtFunctions& ort = runtime.ort();
  OrtAllocator* allocator = nullptr;  // not ours to release
  check(ort, ort.GetAllocatorWithDefaultOptions(&allocator));
  OrtValue* value = nullptr;
  check(ort, ort.CreateTensorAsOrtValue(allocator, dims.data(), dims.size(), type, &value));
  value_.reset(value);
  void* data = nullptr;
  check(ort, ort.GetTensorMutableData(value, &data));
  data_ = static_cast<uint8_t*>(data);
}

void DeviceTensor::check_range(size_t offset, size_t count) const {
  if (offset <= bytes_ && count <= bytes_ - offset) return;
  throw Error(kOrtInvalidArgument, "Cannot copy " + std::to_string(count) + " bytes at " +
                                       std::to_string(offset) + ": the tensor has " +
                                       std::to_string(bytes_) + ".");
}

void DeviceTensor::write(size_t offset, const void* from, size_t count) {
  check_range(offset, count);
  std::memcpy(data_ + offset, from, count);
}

void DeviceTensor::read(size_t offset, void* into, size_t count) const {
  check_range(offset, count);
  std::memcpy(into, data_ + offset, count);
}

void DeviceTensor::copy_within(size_t from, size_t to, size_t count) {
  check_range(from, count);
  check_range(to, count);
  std::memmove(data_ + to, data_ + from, count);
}

Session::Session(const Runtime& runtime, const std::string& model, const std::string& folder,
                 int threads, const std::vector<GivenTensor>& given)
    : runtime_(runtime),
      ort_(runtime.ort()),
      given_(given),
      session_(nullptr, ort_.ReleaseSession),
      binding_(nullptr, ort_.ReleaseIoBinding) {
  OrtSessionOptions* options = nullptr;
  check(ort_, ort_.CreateSessionOptions(&options));
  Owned<OrtSessionOptions> owned(options, ort_.ReleaseSessionOptions);
  check(ort_, ort_.SetSessionLogSeverityLevel(options, kFatal));
  check(ort_, ort_.SetIntraOpNumThreads(options, threads));
  check(ort_, ort_.AddSessionConfigEntry(
                  options, "session.model_external_initializers_file_folder_path", folder.c_str()));
  // Threads that spin between nodes gain nothing on a quiet machine and cost most steps' time on a busy one.
  check(ort_, ort_.AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
  check(ort_, RegisterCustomOps(options, runtime.base_));
  std::vector<const char*> names;
  std::vector<const OrtValue*> values;
  std::vector<Owned<OrtValue>> views;  // onnxruntime takes only values whose memory is not its own
  for (const auto& [name, tensor] : given_) {
    TensorType type = TensorType::of_value(ort_, tensor->value_.get());
    views.push_back(value_of({name, type.type, type.dims, tensor->data_, tensor->bytes_}));
    names.push_back(name.c_str());
    values.push_back(views.back().get());
  }
  if (!names.empty()) {
    check(ort_, ort_.AddExternalInitializers(options, names.data(), values.data(), names.size()));
  }
  OrtSession* session = nullptr;
  check(ort_, ort_.CreateSessionFromArray(runtime.env_, model.data(), model.size(), options, &session));
  session_.reset(session);
  OrtIoBinding* binding = nullptr;
  check(ort_, ort_.CreateIoBinding(session, &binding));
  binding_.reset(binding);
}

void Session::bind_in_place(const std::string& input, const std::string& output,
                            std::shared_ptr<DeviceTensor> tensor) {
  check(ort_, ort_.BindInput(binding_.get(), input.c_str(), tensor->value_.get()));
  check(ort_, ort_.BindOutput(binding_.get(), output.c_str(), tensor->value_.get()));
  bound_.push_back(std::move(tensor));
}

Owned<OrtValue> Session::value_of(const HostTensor& tensor) const {
  if (bytes_of(tensor.type, tensor.dims) != tensor.bytes) {
    throw Error(kOrtInvalidArgument, "Cannot run: " + tensor.name + " has " +
                                         std::to_string(tensor.bytes) + " bytes for shape " +
                                         text_of(tensor.dims) + ".");
  }
  OrtValue* value = nullptr;
  check(ort_, ort_.CreateTensorWithDataAsOrtValue(runtime_.cpu_, tensor.data, tensor.bytes,
                                                  tensor.dims.data(), tensor.dims.size(), tensor.type,
                                                  &value));
  return {value, ort_.ReleaseValue};
}

void Session::run(const std::vector<HostTensor>& inputs, const std::vector<HostTensor>& outputs) {
  for (const HostTensor& tensor : inputs) {
    check(ort_, ort_.BindInput(binding_.get(), tensor.name.c_str(), value_of(tensor).get()));
  }
  for (const HostTensor& tensor : outputs) {
    check(ort_, ort_.BindOutput(binding_.get(), tensor.name.c_str(), value_of(tensor).get()));
  }
  check(ort_, ort_.RunWithBinding(session_.get(), nullptr, binding_.get()));
}

}  // namespace hybridseek
