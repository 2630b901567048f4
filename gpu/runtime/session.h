// Sessions over onnxruntime's C API, free of JavaScript: a library that is opened at run time, models,
// tensors on a device, bindings. One thread at a time uses a session; runs may be on any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../abi/ort.h"

namespace hybridseek {

// A library of onnxruntime in this process.
class Runtime {
 public:
  // Opens it, or finds it opened; it stays so. Throws if it is no such library.
  static const Runtime& open(const std::string& path);

  std::string version() const { return base_->GetVersionString(); }
  // Whether it has what is used of it, see kOrtApiVersion.
  bool suffices() const { return ort_ != nullptr; }

 private:
  friend class Session;
  friend class DeviceTensor;
  explicit Runtime(const std::string& path);
  const OrtFunctions& ort() const;

  std::string path_;
  const OrtApiBase* base_ = nullptr;
  std::unique_ptr<OrtFunctions> ort_;
  OrtEnv* env_ = nullptr;  // lives as long as the process
  OrtMemoryInfo* cpu_ = nullptr;
};

// A tensor in a device's memory. `cpu` is the one device until there are CUDA kernels.
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

// A model that is ready to run, with the ops of this library.
class Session {
 public:
  // `model` is an ONNX file's bytes, `folder` where its data files are but for the tensors in `given`.
  Session(const Runtime& runtime, const std::string& model, const std::string& folder, int threads,
          const std::vector<GivenTensor>& given);

  // Takes a tensor as an input and as an output of every run: it is updated in place.
  void bind_in_place(const std::string& input, const std::string& output,
                     std::shared_ptr<DeviceTensor> tensor);
  // Runs the model on these tensors and those bound in place.
  void run(const std::vector<HostTensor>& inputs, const std::vector<HostTensor>& outputs);

 private:
  Owned<OrtValue> value_of(const HostTensor& tensor) const;

  const Runtime& runtime_;
  const OrtFunctions& ort_;
  const std::vector<GivenTensor> given_;
  Owned<OrtSession> session_;
  Owned<OrtIoBinding> binding_;
  std::vector<std::shared_ptr<DeviceTensor>> bound_;
};

}  // namespace hybridseek
