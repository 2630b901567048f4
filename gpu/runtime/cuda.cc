// nvcc's host code registers its kernels while this library is loaded, when no runtime is there yet: what it
// says is written down, and said again to the runtime that is opened. All other calls are passed on.
#include "cuda.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace hybridseek::cuda {
namespace {

constexpr const char* kLibrary = "libcudart.so.13";
constexpr const char* kVariable = "HYBRIDSEEK_CUDART";

struct dim3 {
  unsigned x, y, z;
};

struct Function {
  const char* host;
  char* device;
  const char* name;
  int thread_limit;
};
struct Variable {
  char* host;
  char* device;
  const char* name;
  int external;
  size_t bytes;
  int constant, global;
};
// A source's kernels, as registered.
struct Binary {
  void* wrapper;
  std::vector<Function> functions;
  std::vector<Variable> variables;
};

// Made when the first binary registers, which is before this file's own variables are.
std::vector<std::unique_ptr<Binary>>& binaries() {
  static auto* all = new std::vector<std::unique_ptr<Binary>>;
  return *all;
}

void* library = nullptr;

void* symbol(const char* name) {
  void* found = library ? dlsym(library, name) : nullptr;
  if (!found) throw Error(kOrtFail, std::string("Cannot use CUDA: its runtime has no ") + name + ".");
  return found;
}

template <typename F>
F function(const char* name) {
  return reinterpret_cast<F>(symbol(name));
}

void open_library() {
  const char* given = std::getenv(kVariable);
  const char* path = given && *given ? given : kLibrary;
  library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    throw Error(kOrtFail, std::string("Cannot use CUDA: ") + dlerror() +
                              "; the CUDA runtime comes with CUDA 13 or with pip install "
                              "nvidia-cuda-runtime, and " + kVariable + " names its file.");
  }
  int count = 0;
  int code = function<int (*)(int*)>("cudaGetDeviceCount")(&count);
  if (code != 0 || count == 0) {
    auto text = function<const char* (*)(int)>("cudaGetErrorString");
    std::string reason = code != 0 ? text(code) : "there is no device";
    dlclose(library);
    library = nullptr;
    throw Error(kOrtFail, std::string("Cannot use CUDA: ") + path + " finds no device (" + reason +
                              "); NVIDIA's driver 580 or later brings what it needs.");
  }
  auto begin = function<void** (*)(void*)>("__cudaRegisterFatBinary");
  auto end = function<void (*)(void**)>("__cudaRegisterFatBinaryEnd");
  auto add = function<void (*)(void**, const char*, char*, const char*, int, void*, void*, void*, void*,
                               int*)>("__cudaRegisterFunction");
  auto add_variable = function<void (*)(void**, char*, char*, const char*, int, size_t, int, int)>(
      "__cudaRegisterVar");
  for (auto& binary : binaries()) {
    void** handle = begin(binary->wrapper);
    for (const Function& f : binary->functions) {
      add(handle, f.host, f.device, f.name, f.thread_limit, nullptr, nullptr, nullptr, nullptr, nullptr);
    }
    for (const Variable& v : binary->variables) {
      add_variable(handle, v.host, v.device, v.name, v.external, v.bytes, v.constant, v.global);
    }
    end(handle);
  }
}

}  // namespace

void open() {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  if (!library) open_library();
}

void check(int code, const char* what) {
  if (code == 0) return;
  auto text = function<const char* (*)(int)>("cudaGetErrorString");
  throw Error(kOrtFail, std::string("Cannot run ") + what + " on the GPU: " + text(code) + ".");
}

int device() {
  int current = 0;
  check(cudaGetDevice(&current), "cudaGetDevice");
  return current;
}

int attribute(Attribute which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device()), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace hybridseek::cuda

using namespace hybridseek::cuda;

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
  binaries().push_back(std::unique_ptr<Binary>(new Binary{wrapper, {}, {}}));
  return reinterpret_cast<void**>(binaries().back().get());
}
void __cudaRegisterFatBinaryEnd(void**) {}
// This library stays loaded as long as the process runs.
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void** binary, const char* host, char* device, const char* name, int limit, void*,
                            void*, void*, void*, int*) {
  reinterpret_cast<Binary*>(binary)->functions.push_back({host, device, name, limit});
}
void __cudaRegisterVar(void** binary, char* host, char* device, const char* name, int external, size_t bytes,
                       int constant, int global) {
  reinterpret_cast<Binary*>(binary)->variables.push_back(
      {host, device, name, external, bytes, constant, global});
}

#define HYBRIDSEEK_PASS_ON(name, parameters, arguments)             \
  int name parameters {                                             \
    static const auto found = function<int(*) parameters>(#name);   \
    return found arguments;                                         \
  }

HYBRIDSEEK_PASS_ON(__cudaPushCallConfiguration, (dim3 grid, dim3 block, size_t shared, void* stream),
                   (grid, block, shared, stream))
HYBRIDSEEK_PASS_ON(__cudaPopCallConfiguration, (dim3 * grid, dim3* block, size_t* shared, void* stream),
                   (grid, block, shared, stream))
HYBRIDSEEK_PASS_ON(__cudaGetKernel, (void** kernel, const void* host), (kernel, host))
HYBRIDSEEK_PASS_ON(__cudaLaunchKernel,
                   (const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, void* stream),
                   (kernel, grid, block, arguments, shared, stream))
HYBRIDSEEK_PASS_ON(cudaLaunchKernel,
                   (const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, void* stream),
                   (kernel, grid, block, arguments, shared, stream))
HYBRIDSEEK_PASS_ON(cudaLaunchCooperativeKernel,
                   (const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared, void* stream),
                   (kernel, grid, block, arguments, shared, stream))
HYBRIDSEEK_PASS_ON(cudaFuncSetAttribute, (const void* kernel, int which, int value), (kernel, which, value))
HYBRIDSEEK_PASS_ON(cudaGetLastError, (), ())
HYBRIDSEEK_PASS_ON(cudaGetDevice, (int* device), (device))
HYBRIDSEEK_PASS_ON(cudaDeviceGetAttribute, (int* value, int which, int device), (value, which, device))
HYBRIDSEEK_PASS_ON(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags,
                   (int* blocks, const void* kernel, int threads, size_t shared, unsigned flags),
                   (blocks, kernel, threads, shared, flags))
HYBRIDSEEK_PASS_ON(cudaMalloc, (void** memory, size_t bytes), (memory, bytes))
HYBRIDSEEK_PASS_ON(cudaFree, (void* memory), (memory))
HYBRIDSEEK_PASS_ON(cudaMallocHost, (void** memory, size_t bytes), (memory, bytes))
HYBRIDSEEK_PASS_ON(cudaFreeHost, (void* memory), (memory))
HYBRIDSEEK_PASS_ON(cudaMemGetInfo, (size_t * free, size_t* total), (free, total))
HYBRIDSEEK_PASS_ON(cudaMemcpyAsync, (void* to, const void* from, size_t bytes, int kind, void* stream),
                   (to, from, bytes, kind, stream))
HYBRIDSEEK_PASS_ON(cudaStreamCreateWithFlags, (void** stream, unsigned flags), (stream, flags))
HYBRIDSEEK_PASS_ON(cudaStreamDestroy, (void* stream), (stream))
HYBRIDSEEK_PASS_ON(cudaStreamSynchronize, (void* stream), (stream))
#ifdef HYBRIDSEEK_EMULATED_CUDA
HYBRIDSEEK_PASS_ON(cudaHostRegister, (void* memory, size_t bytes, unsigned flags), (memory, bytes, flags))
HYBRIDSEEK_PASS_ON(cudaHostUnregister, (void* memory), (memory))
HYBRIDSEEK_PASS_ON(cudaPointerGetAttributes, (void* attributes, const void* pointer), (attributes, pointer))
#endif

// FlashInfer's host code asks for it in messages only.
const char* cudaGetErrorString(int code) {
  return function<const char* (*)(int)>("cudaGetErrorString")(code);
}

}  // extern "C"
