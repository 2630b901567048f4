#include "session.h"

#include <dlfcn.h>

#include <algorithm>
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
    case kFloat16:
    case kBfloat16: return 2;
    case kFloat8:
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

// Copies to, from or within memory of a device, or the host's where there is none.
void copy_bytes(const cuda::Buffer& memory, void* to, const void* from, size_t bytes, cuda::CopyKind kind) {
  if (!memory.data()) {
    std::memmove(to, from, bytes);
    return;
  }
  cuda::check(cudaMemcpyAsync(to, from, bytes, kind, nullptr), "cudaMemcpyAsync");
  cuda::check(cudaStreamSynchronize(nullptr), "a copy");
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

Owned<OrtMemoryInfo> Runtime::cuda_memory() const {
  cuda::open();
  OrtMemoryInfo* info = nullptr;
#ifdef HYBRIDSEEK_EMULATED_CUDA
  check(ort(), ort().CreateCpuMemoryInfo(/*arena*/ 1, /*default memory*/ 0, &info));
#else
  check(ort(), ort().CreateMemoryInfo("Cuda", /*arena*/ 1, cuda::device(), /*default memory*/ 0, &info));
#endif
  return {info, ort().ReleaseMemoryInfo};
}

void Runtime::append_cuda(OrtSessionOptions* options, size_t arena, bool graphs, const cuda::Stream& stream) const {
#ifdef HYBRIDSEEK_EMULATED_CUDA
  static_cast<void>(options), static_cast<void>(arena), static_cast<void>(graphs), static_cast<void>(stream);
#else
  OrtCudaOptions* provider = nullptr;
  check(ort(), ort().CreateCUDAProviderOptions(&provider));
  Owned<OrtCudaOptions> owned(provider, ort().ReleaseCUDAProviderOptions);
  const std::pair<const char*, std::string> values[] = {
      {"device_id", std::to_string(cuda::device())},
      {"gpu_mem_limit", std::to_string(arena)},
      {"arena_extend_strategy", "kSameAsRequested"},
      {"use_tf32", "0"},
      {"has_user_compute_stream", "1"},
      {"user_compute_stream", std::to_string(reinterpret_cast<uintptr_t>(stream.get()))},
      {"enable_cuda_graph", graphs ? "1" : "0"},
  };
  std::vector<const char*> keys, texts;
  for (auto& [key, text] : values) keys.push_back(key), texts.push_back(text.c_str());
  check(ort(), ort().UpdateCUDAProviderOptions(provider, keys.data(), texts.data(), keys.size()));
  check(ort(), ort().SessionOptionsAppendExecutionProvider_CUDA_V2(options, provider));
  // Weights lie outside of the arena: its rounding is not for them.
  check(ort(), ort().AddSessionConfigEntry(options, "session.use_device_allocator_for_initializers", "1"));
#endif
}

void Runtime::check_cuda() const {
  cuda::open();
  cuda::Stream stream;
  OrtSessionOptions* options = nullptr;
  check(ort(), ort().CreateSessionOptions(&options));
  Owned<OrtSessionOptions> owned(options, ort().ReleaseSessionOptions);
  append_cuda(options, 0, false, stream);
}

DeviceTensor::DeviceTensor(const Runtime& runtime, const std::string& device, int type,
                           const Dims& dims)
    : info_(nullptr, runtime.ort().ReleaseMemoryInfo),
      value_(nullptr, runtime.ort().ReleaseValue),
      bytes_(bytes_of(type, dims)) {
  const OrtFunctions& ort = runtime.ort();
  OrtValue* value = nullptr;
  if (device == "cuda") {
    info_ = runtime.cuda_memory();
    memory_ = cuda::Buffer(std::max<size_t>(bytes_, 1));
    check(ort, ort.CreateTensorWithDataAsOrtValue(info_.get(), memory_.data(), bytes_, dims.data(), dims.size(),
                                                  type, &value));
  } else if (device == "cpu") {
    OrtAllocator* allocator = nullptr;  // not ours to release
    check(ort, ort.GetAllocatorWithDefaultOptions(&allocator));
    check(ort, ort.CreateTensorAsOrtValue(allocator, dims.data(), dims.size(), type, &value));
  } else {
    throw Error(kOrtInvalidArgument, "Cannot make a tensor on " + device + ": a device is cpu or cuda.");
  }
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
  copy_bytes(memory_, data_ + offset, from, count, cuda::kToDevice);
}

void DeviceTensor::read(size_t offset, void* into, size_t count) const {
  check_range(offset, count);
  copy_bytes(memory_, into, data_ + offset, count, cuda::kToHost);
}

void DeviceTensor::copy_within(size_t from, size_t to, size_t count) {
  check_range(from, count);
  check_range(to, count);
  if (memory_.data() && from < to + count && to < from + count) {
    throw Error(kOrtInvalidArgument, "Cannot copy within a tensor of the device: what is written is read, too.");
  }
  copy_bytes(memory_, data_ + to, data_ + from, count, cuda::kWithinDevice);
}

Session::Session(const Runtime& runtime, const std::string& model, const std::string& folder,
                 int threads, const std::vector<GivenTensor>& given, const CudaSettings* cuda)
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
  if (cuda) {
    cuda_ = std::make_unique<CudaSide>(runtime.cuda_memory(), cuda->graphs);
    for (auto& [name, bytes] : cuda->on_device) cuda_->tensors[name] = cuda::Buffer(std::max<size_t>(bytes, 1));
    runtime.append_cuda(options, cuda->arena, cuda->graphs, cuda_->stream);
  }
  check(ort_, RegisterCustomOps(options, runtime.base_));
  std::vector<const char*> names;
  std::vector<const OrtValue*> values;
  std::vector<Owned<OrtValue>> views;  // onnxruntime takes only values whose memory is not its own
  for (const auto& [name, tensor] : given_) {
    TensorType type = TensorType::of_value(ort_, tensor->value_.get());
    views.push_back(value_of({name, type.type, type.dims, tensor->data_, tensor->bytes_}, runtime.cpu_));
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

Owned<OrtValue> Session::value_of(const HostTensor& tensor, const OrtMemoryInfo* memory) const {
  if (bytes_of(tensor.type, tensor.dims) != tensor.bytes) {
    throw Error(kOrtInvalidArgument, "Cannot run: " + tensor.name + " has " +
                                         std::to_string(tensor.bytes) + " bytes for shape " +
                                         text_of(tensor.dims) + ".");
  }
  OrtValue* value = nullptr;
  check(ort_, ort_.CreateTensorWithDataAsOrtValue(memory, tensor.data, tensor.bytes,
                                                  tensor.dims.data(), tensor.dims.size(), tensor.type,
                                                  &value));
  return {value, ort_.ReleaseValue};
}

void* Session::bind(const HostTensor& tensor, OrtStatus* (*to)(OrtIoBinding*, const char*, const OrtValue*)) {
  HostTensor placed = tensor;
  const OrtMemoryInfo* memory = runtime_.cpu_;
  bool on_device = cuda_ && cuda_->tensors.count(tensor.name) > 0;
  if (on_device) {
    const cuda::Buffer& room = cuda_->tensors[tensor.name];
    if (tensor.bytes > room.bytes()) {
      throw Error(kOrtInvalidArgument, "Cannot run: " + tensor.name + " has " + std::to_string(tensor.bytes) +
                                           " bytes, there is room for " + std::to_string(room.bytes()) + ".");
    }
    placed.data = room.data();
    memory = cuda_->memory.get();
  }
  check(ort_, to(binding_.get(), tensor.name.c_str(), value_of(placed, memory).get()));
  return on_device ? placed.data : nullptr;
}

RunThread::~RunThread() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void RunThread::call(const std::function<void()>& work) {
  std::unique_lock<std::mutex> lock(mutex_);
  work_ = &work;
  changed_.notify_all();
  changed_.wait(lock, [&] { return !work_; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void RunThread::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return work_ || ends_; });
    if (!work_) return;
    try {
      (*work_)();
    } catch (...) {
      failure_ = std::current_exception();
    }
    work_ = nullptr;
    changed_.notify_all();
  }
}

void Session::run(const std::vector<HostTensor>& inputs, const std::vector<HostTensor>& outputs, int graph) {
  if (!cuda_) return run_here(inputs, outputs, graph);
  cuda_->thread.call([&] { run_here(inputs, outputs, graph); });
}

void Session::run_here(const std::vector<HostTensor>& inputs, const std::vector<HostTensor>& outputs, int graph) {
  for (const HostTensor& tensor : inputs) {
    void* place = bind(tensor, ort_.BindInput);
    if (place) cuda_->stream.copy(place, tensor.data, tensor.bytes, cuda::kToDevice);
  }
  std::vector<void*> places;
  for (const HostTensor& tensor : outputs) places.push_back(bind(tensor, ort_.BindOutput));
  Owned<OrtRunOptions> options(nullptr, ort_.ReleaseRunOptions);
  if (cuda_ && cuda_->graphs) {
    OrtRunOptions* made = nullptr;
    check(ort_, ort_.CreateRunOptions(&made));
    options.reset(made);
    check(ort_, ort_.AddRunConfigEntry(made, "gpu_graph_id", std::to_string(graph).c_str()));
  }
  check(ort_, ort_.RunWithBinding(session_.get(), options.get(), binding_.get()));
  if (!cuda_) return;
  for (size_t i = 0; i < outputs.size(); i++) {
    if (places[i]) cuda_->stream.copy(outputs[i].data, places[i], outputs[i].bytes, cuda::kToHost);
  }
  cuda_->stream.wait();
}

}  // namespace hybridseek
