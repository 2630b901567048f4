// The CUDA runtime, opened when a kernel first needs it: this library links nothing of CUDA. Its functions
// are declared here as the toolkit does, so that only kernels need the toolkit's headers.
#pragma once

#include <cstddef>
#include <utility>

#include "../abi/ort.h"

extern "C" {
int cudaMalloc(void** memory, size_t bytes);
int cudaFree(void* memory);
int cudaMallocHost(void** memory, size_t bytes);
int cudaFreeHost(void* memory);
int cudaMemGetInfo(size_t* free, size_t* total);
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void* stream);
int cudaStreamCreateWithFlags(void** stream, unsigned flags);
int cudaStreamDestroy(void* stream);
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

// Memory that is ours.
template <int (*Allocate)(void**, size_t), int (*Free)(void*)>
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : bytes_(bytes) { check(Allocate(&data_, bytes), "an allocation"); }
  ~Memory() {
    if (data_) Free(data_);
  }
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void swap(Memory& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Of the current device.
using Buffer = Memory<cudaMalloc, cudaFree>;
// Of the host, pinned: a device copies from it and to it without a detour.
using Pinned = Memory<cudaMallocHost, cudaFreeHost>;

// A queue of the current device.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, /*non-blocking*/ 1), "cudaStreamCreate"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  void* get() const { return stream_; }
  void copy(void* to, const void* from, size_t bytes, CopyKind kind) const {
    check(cudaMemcpyAsync(to, from, bytes, kind, stream_), "cudaMemcpyAsync");
  }
  void wait() const { check(cudaStreamSynchronize(stream_), "the work of a queue"); }

 private:
  void* stream_ = nullptr;
};

}  // namespace hybridseek::cuda
