// Sessions over onnxruntime's C API, free of JavaScript: a library that is opened at run time, models,
// tensors on a device, bindings. One thread at a time uses a session; runs may be on any thread.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cuda.h"

namespace hybridseek {

// A library of onnxruntime in this process.
class Runtime {
 public:
  // Opens it, or finds it opened; it stays so. Throws if it is no such library.
  static const Runtime& open(const std::string& path);

  std::string version() const { return base_->GetVersionString(); }
  // Whether it has what is used of it, see kOrtApiVersion.
  bool suffices() const { return ort_ != nullptr; }
  // Throws why its CUDA provider can not be had.
  void check_cuda() const;

 private:
  friend class Session;
  friend class DeviceTensor;
  explicit Runtime(const std::string& path);
  const OrtFunctions& ort() const;
  // How onnxruntime calls a CUDA device's memory.
  Owned<OrtMemoryInfo> cuda_memory() const;
  void append_cuda(OrtSessionOptions* options, size_t arena, bool graphs, const cuda::Stream& stream) const;

  std::string path_;
  const OrtApiBase* base_ = nullptr;
  std::unique_ptr<OrtFunctions> ort_;
  OrtEnv* env_ = nullptr;  // lives as long as the process
  OrtMemoryInfo* cpu_ = nullptr;
};

// A tensor in the memory of a device, `cpu` or `cuda`.
class DeviceTensor {
 public:
  DeviceTensor(const Runtime& runtime, const std::string& device, int type, const Dims& dims);

  size_t bytes() const { return bytes_; }
  const void* address() const { return data_; }
  // Copies between a device and this process' memory, or within the tensor. Throw if out of range.
  void write(size_t offset, const void* from, size_t count);
  void read(size_t offset, void* into, size_t count) const;
  void copy_within(size_t from, size_t to, size_t count);

 private:
  friend class Session;
  void check_range(size_t offset, size_t count) const;

  cuda::Buffer memory_;  // none on the CPU
  Owned<OrtMemoryInfo> info_;
  Owned<OrtValue> value_;
  uint8_t* data_ = nullptr;
  size_t bytes_;
};

// A tensor over the caller's memory.
struct HostTensor {
  std::string name;
  int type;
  Dims dims;
  void* data;
  size_t bytes;
};

// A weight that is given to a session instead of being read from a data file.
struct GivenTensor {
  std::string name;
  std::shared_ptr<DeviceTensor> tensor;
};

// How a session uses a CUDA device.
struct CudaSettings {
  // Bytes of onnxruntime's arena; weights lie outside of it.
  size_t arena;
  // Whether runs may be captured as CUDA graphs.
  bool graphs;
  // Inputs and outputs that runs have on the device, and their most bytes; the others are left to onnxruntime.
  std::vector<std::pair<std::string, size_t>> on_device;
};

// A thread of its own for the runs of a session: onnxruntime keeps a CUDA device's handles and graphs by thread.
class RunThread {
 public:
  RunThread() : thread_([this] { serve(); }) {}
  ~RunThread();
  // Does the work there; one call at a time. Throws what it throws.
  void call(const std::function<void()>& work);

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  std::exception_ptr failure_;
  bool ends_ = false;
  std::thread thread_;
};

// A model that is ready to run, with the ops of this library.
class Session {
 public:
  // `model` is an ONNX file's bytes, `folder` where its data files are but for the tensors in `given`. With
  // `cuda` nodes run on the current device, as far as there are kernels.
  Session(const Runtime& runtime, const std::string& model, const std::string& folder, int threads,
          const std::vector<GivenTensor>& given, const CudaSettings* cuda);

  // Takes a tensor as an input and as an output of every run: it is updated in place.
  void bind_in_place(const std::string& input, const std::string& output,
                     std::shared_ptr<DeviceTensor> tensor);
  // Runs the model on these tensors and those bound in place. Runs with one `graph` >= 0 have the same shapes
  // and the same memory: the second is captured, later ones replay it.
  void run(const std::vector<HostTensor>& inputs, const std::vector<HostTensor>& outputs, int graph);

 private:
  // What a session has on a CUDA device.
  struct CudaSide {
    CudaSide(Owned<OrtMemoryInfo> memory, bool graphs) : memory(std::move(memory)), graphs(graphs) {}
    RunThread thread;
    cuda::Stream stream;
    Owned<OrtMemoryInfo> memory;
    std::map<std::string, cuda::Buffer> tensors;
    bool graphs;
  };

  Owned<OrtValue> value_of(const HostTensor& tensor, const OrtMemoryInfo* memory) const;
  void run_here(const std::vector<HostTensor>& inputs, const std::vector<HostTensor>& outputs, int graph);
  // Binds a tensor of a run, where it is to lie; gives its place on the device, null if it has none.
  void* bind(const HostTensor& tensor, OrtStatus* (*to)(OrtIoBinding*, const char*, const OrtValue*));

  const Runtime& runtime_;
  const OrtFunctions& ort_;
  const std::vector<GivenTensor> given_;
  std::unique_ptr<CudaSide> cuda_;  // none on the CPU; outlives the session
  Owned<OrtSession> session_;
  Owned<OrtIoBinding> binding_;
  std::vector<std::shared_ptr<DeviceTensor>> bound_;
};

}  // namespace hybridseek
