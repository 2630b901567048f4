// The CUDA runtime, opened when a kernel first needs it: this library links nothing of CUDA. Its functions
// are declared here as the toolkit does, so that only kernels need the toolkit's headers.
#pragma once

#include <cstddef>
#include <utility>

#include "../abi/ort.h"

extern "C" {
int cudaMalloc(void** memory, size_t bytes);
int cudaFree(void* memory);
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream);
int cudaStreamSynchronize(void* stream);
int cudaGetDevice(int* device);
int cudaDeviceGetAttribute(int* value, int attribute, int device);
}

namespace hybridseek::cuda {

enum CopyKind { kToDevice = 1, kToHost = 2, kWithinDevice = 3 };
enum Attribute { kMemoryClock = 36, kMemoryBus = 37, kMajor = 75, kMinor = 76, kSharedPerBlock = 97 };

// Opens the runtime and finds a device, once. Throws what is missing and what brings it.
void open();

// Throws if a call of the runtime or of a kernel failed.
void check(int code, const char* what);

// Of the current device.
int device();
int attribute(Attribute which);

// Memory of the current device that is ours.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : bytes_(bytes) { check(cudaMalloc(&data_, bytes), "cudaMalloc"); }
  ~Buffer() {
    if (data_) cudaFree(data_);
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace hybridseek::cuda
