// The CUDA runtime as far as programs compiled with `nvcc -cudart none --no-compress` need it, over
// the PTX executor. Device memory is host memory that kernels may touch; a launch has ended when it
// returns, so that streams and events have nothing to wait for. Calls that this file does not
// define do not link.
//
// Environment:
//   HYBRIDSEEK_EMU_ARCH      the device: sm_80 (default), sm_86, sm_89 or sm_90a
//   HYBRIDSEEK_EMU_SMS       its multiprocessors (4)
//   HYBRIDSEEK_EMU_LIMIT     warp instructions of a launch before it counts as hanging
//   HYBRIDSEEK_EMU_SEED      not 0: another, repeatable order of warps
//   HYBRIDSEEK_EMU_THREADS   threads of the host for kernels without global atomics
//   HYBRIDSEEK_EMU_TOLERATE  kinds of reports that do not stop a launch, with commas between
//   HYBRIDSEEK_EMU_LOG       a file that gets a line of JSON for every launch
//   HYBRIDSEEK_EMU_DUMP      a folder for the PTX of every loaded fat binary: 0.ptx, 1.ptx, …
//   HYBRIDSEEK_EMU_PTX       a folder whose files of these names are used instead
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "fatbin.h"
#include "launch.h"

namespace {

using namespace emu;

// What the toolkit's headers define and this needs, so that building asks for no toolkit.
enum cudaError : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kMemoryAllocation = 2,
  kInvalidConfiguration = 9,
  kInvalidSymbol = 13,
  kInvalidDeviceFunction = 98,
  kInvalidDevice = 101,
  kNoKernelImage = 209,
  kInvalidPtx = 218,
  kIllegalAddress = 700,
  kLaunchOutOfResources = 701,
  kMisalignedAddress = 716,
  kLaunchFailure = 719,
  kCooperativeLaunchTooLarge = 720,
  kNotSupported = 801,
};
struct dim3 {
  unsigned x, y, z;
};
struct LaunchAttribute {
  int id;
  char padding[4];
  union {
    int cooperative;
    dim3 cluster;
    char bytes[64];
  } value;
};
enum { kAttributeCooperative = 2, kAttributeCluster = 4 };
struct LaunchConfig {
  dim3 grid, block;
  size_t dynamic_shared;
  void* stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};
struct FunctionAttributes {
  size_t shared_bytes, const_bytes, local_bytes;
  int max_threads, registers, ptx_version, binary_version, cache_mode, max_dynamic_shared, carveout;
};
struct PointerAttributes {
  int type;  // 0 unregistered, 1 host, 2 device
  int device;
  void* device_pointer;
  void* host_pointer;
};
struct FatBinaryWrapper {
  int magic, version;
  const void* data;
  void* more;
};
constexpr uint64_t kDefaultSharedLimit = 48 << 10;

struct Device {
  Architecture architecture;
  int multiprocessors;
  int shared_per_multiprocessor, shared_per_block;
  int blocks_per_multiprocessor, threads_per_multiprocessor;
};

const char* environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != 0 ? value : otherwise;
}

Device make_device() {
  Device device{};
  device.architecture = architecture_named(environment("HYBRIDSEEK_EMU_ARCH", "sm_80"));
  device.multiprocessors = std::atoi(environment("HYBRIDSEEK_EMU_SMS", "4"));
  int number = device.architecture.number;
  int kilobytes = number >= 90 ? 228 : number == 80 || number == 87 ? 164 : number >= 86 ? 100 : 64;
  device.shared_per_multiprocessor = kilobytes << 10;
  device.shared_per_block = (kilobytes - 1) << 10;
  device.threads_per_multiprocessor = number == 86 || number == 89 ? 1536 : 2048;
  device.blocks_per_multiprocessor = number == 86 || number == 89 ? 16 : 32;
  return device;
}

struct Binary {
  std::vector<std::string> texts;
  std::unique_ptr<Module> module;  // null before first use
  cudaError error = kSuccess;
  std::string message;
  size_t index;
  struct Variable {
    std::string name;
    const void* host;
  };
  std::vector<Variable> variables;
};

struct Kernel {
  Binary* binary;
  std::string name;
  uint64_t max_dynamic_shared = 0;  ///< as set; 0: what is left of 48 KB
};

class Runtime {
 public:
  static Runtime& get() {
    static Runtime* const runtime = new Runtime;  // programs call until their very end
    return *runtime;
  }

  DeviceMemory& memory = device_memory();
  const Device device = make_device();

  Binary* add(const void* data) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto binary = std::make_unique<Binary>();
    binary->index = binaries_.size();
    try {
      binary->texts = ptx_of_fat_binary(data);
    } catch (const Error& error) {
      binary->error = kInvalidPtx;
      binary->message = error.what();
    }
    binaries_.push_back(std::move(binary));
    return binaries_.back().get();
  }

  void add_kernel(Binary* binary, const void* host, const char* name) {
    std::lock_guard<std::mutex> lock(mutex_);
    kernels_[host] = {binary, name};
  }

  Kernel* kernel(const void* host) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = kernels_.find(host);
    return it == kernels_.end() ? nullptr : &it->second;
  }

  /// The device's address of a variable that the host knows by `host`.
  GlobalVariable* variable(const void* host) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& binary : binaries_) {
      for (const auto& variable : binary->variables) {
        if (variable.host != host || load(*binary) != kSuccess) continue;
        auto it = binary->module->globals.find(variable.name);
        if (it != binary->module->globals.end()) return it->second.get();
      }
    }
    return nullptr;
  }

  const Module* module(Binary& binary, cudaError& error) {
    std::lock_guard<std::mutex> lock(mutex_);
    error = load(binary);
    return binary.module.get();
  }

  /// A launch's fault stays: as on a device, every later call gives it until a reset.
  cudaError fail(cudaError error, const std::string& message) {
    if (!message.empty()) std::fprintf(stderr, "emulated CUDA: %s\n", message.c_str());
    last_error = error;
    return error;
  }

  cudaError last_error = kSuccess;
  cudaError sticky_error = kSuccess;

  void log(const Kernel& kernel, Dimensions grid, Dimensions block, uint64_t shared,
           const LaunchResult& result) {
    const char* path = environment("HYBRIDSEEK_EMU_LOG", nullptr);
    if (path == nullptr) return;
    const Counters& c = result.counters;
    std::ostringstream line;
    line << "{\"kernel\":\"" << kernel.name << "\",\"grid\":[" << grid.x << ',' << grid.y << ','
         << grid.z << "],\"block\":[" << block.x << ',' << block.y << ',' << block.z
         << "],\"dynamicShared\":" << shared << ",\"warpInstructions\":" << c.warp_instructions
         << ",\"tensorInstructions\":" << c.tensor_instructions
         << ",\"multiplyAdds\":" << c.multiply_adds
         << ",\"globalBytesRead\":" << c.global_bytes_read
         << ",\"globalBytesWritten\":" << c.global_bytes_written
         << ",\"sharedBytesRead\":" << c.shared_bytes_read
         << ",\"sharedBytesWritten\":" << c.shared_bytes_written << ",\"reports\":[";
    const char* comma = "";
    for (const Report& report : result.reports) {
      line << comma << "{\"kind\":\"" << name_of(report.kind) << "\",\"line\":" << report.line
           << ",\"times\":" << report.times << '}';
      comma = ",";
    }
    line << "]}\n";
    std::ofstream(path, std::ios::app) << line.str();
  }

 private:
  cudaError load(Binary& binary) {
    if (binary.module != nullptr || binary.error != kSuccess) return binary.error;
    const std::string* chosen = choose_ptx(binary.texts, device.architecture);
    std::string text = chosen == nullptr ? "" : *chosen;
    std::string file = std::to_string(binary.index) + ".ptx";
    if (const char* folder = environment("HYBRIDSEEK_EMU_DUMP", nullptr)) {
      std::ofstream(std::string(folder) + "/" + file) << text;
    }
    if (const char* folder = environment("HYBRIDSEEK_EMU_PTX", nullptr)) {
      std::ifstream replaced(std::string(folder) + "/" + file);
      if (replaced) text.assign(std::istreambuf_iterator<char>(replaced), {});
    }
    if (text.empty()) {
      binary.message = "no PTX of the fat binary runs on the emulated sm_" +
                       std::to_string(device.architecture.number);
      return binary.error = fail(kNoKernelImage, binary.message);
    }
    try {
      binary.module = parse(text);
    } catch (const Error& error) {
      binary.message = error.what();
      return binary.error = fail(kInvalidPtx, binary.message);
    }
    for (const auto& [name, variable] : binary.module->globals) {
      auto kind =
          variable->space == Space::Const ? Allocation::Kind::Constant : Allocation::Kind::Module;
      memory.add(reinterpret_cast<void*>(variable->address), variable->bytes, kind, name);
    }
    return kSuccess;
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Binary>> binaries_;
  std::map<const void*, Kernel> kernels_;
};

uint64_t number_in_environment(const char* name, uint64_t otherwise) {
  const char* value = environment(name, nullptr);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 0);
}

LaunchOptions options_of_environment() {
  LaunchOptions options;
  options.instruction_limit =
      number_in_environment("HYBRIDSEEK_EMU_LIMIT", options.instruction_limit);
  options.seed = number_in_environment("HYBRIDSEEK_EMU_SEED", 0);
  options.host_threads = static_cast<unsigned>(number_in_environment("HYBRIDSEEK_EMU_THREADS", 1));
  std::istringstream kinds(environment("HYBRIDSEEK_EMU_TOLERATE", ""));
  for (std::string name; std::getline(kinds, name, ',');) {
    for (int kind = 0; kind <= static_cast<int>(ReportKind::Unsupported); kind++) {
      if (name == name_of(static_cast<ReportKind>(kind)))
        options.tolerated.push_back(static_cast<ReportKind>(kind));
    }
  }
  return options;
}

int resident_blocks(const Module& module, const Kernel& kernel, uint64_t threads,
                    uint64_t dynamic_shared) {
  const Runtime& runtime = Runtime::get();
  uint64_t shared =
      module.kernel(kernel.name).shared_bytes + dynamic_shared + 1024;  // the system's own
  uint64_t warps = (threads + kLanes - 1) / kLanes;
  uint64_t by_threads =
      static_cast<uint64_t>(runtime.device.threads_per_multiprocessor) / (warps * kLanes);
  uint64_t by_shared = static_cast<uint64_t>(runtime.device.shared_per_multiprocessor) / shared;
  return static_cast<int>(std::min(
      {by_threads, by_shared, static_cast<uint64_t>(runtime.device.blocks_per_multiprocessor)}));
}

cudaError launch_kernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared,
                        bool cooperative) {
  Runtime& runtime = Runtime::get();
  if (runtime.sticky_error != kSuccess) return runtime.sticky_error;
  Kernel* kernel = runtime.kernel(host);
  if (kernel == nullptr)
    return runtime.fail(kInvalidDeviceFunction,
                        "launch of a function that is no registered kernel");
  cudaError error = kSuccess;
  const Module* module = runtime.module(*kernel->binary, error);
  if (module == nullptr) return runtime.fail(error, kernel->binary->message);
  try {
    const Function& function = module->kernel(kernel->name);
    uint64_t limit =
        kernel->max_dynamic_shared != 0
            ? kernel->max_dynamic_shared
            : kDefaultSharedLimit - std::min<uint64_t>(function.shared_bytes, kDefaultSharedLimit);
    if (shared > limit) {
      return runtime.fail(kInvalidValue, kernel->name + " asks for " + std::to_string(shared) +
                                             " B of dynamic shared memory; " +
                                             std::to_string(limit) +
                                             " B are set for it (cudaFuncSetAttribute)");
    }
    uint64_t threads = uint64_t{block.x} * block.y * block.z;
    uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
    if (blocks == 0 || threads == 0 || threads > 1024)
      return runtime.fail(kInvalidConfiguration, "launch of " + kernel->name +
                                                     " with a grid or block that is not possible");
    uint64_t resident = static_cast<uint64_t>(resident_blocks(*module, *kernel, threads, shared)) *
                        static_cast<uint64_t>(runtime.device.multiprocessors);
    if (resident == 0)
      return runtime.fail(kLaunchOutOfResources,
                          kernel->name + " does not fit on a multiprocessor");
    if (cooperative && blocks > resident) {
      return runtime.fail(kCooperativeLaunchTooLarge, kernel->name + ": " + std::to_string(blocks) +
                                                          " blocks are not resident at once");
    }
    Dimensions grid_size{grid.x, grid.y, grid.z}, block_size{block.x, block.y, block.z};
    LaunchResult result =
        launch(*module, kernel->name, grid_size, block_size, static_cast<uint32_t>(shared),
               arguments, cooperative, runtime.memory, options_of_environment());
    runtime.log(*kernel, grid_size, block_size, shared, result);
    return kSuccess;
  } catch (const Fault& fault) {
    error = fault.kind == ReportKind::OutOfBounds || fault.kind == ReportKind::UseAfterFree
                ? kIllegalAddress
            : fault.kind == ReportKind::Misaligned ? kMisalignedAddress
                                                   : kLaunchFailure;
    runtime.sticky_error = error;
    return runtime.fail(error, fault.what());
  } catch (const Error& failure) {
    return runtime.fail(kNotSupported, failure.what());
  }
}

/// Copies, and with the bytes the knowledge which of them were written.
cudaError copy(void* to, const void* from, size_t bytes, int kind) {
  Runtime& runtime = Runtime::get();
  if (runtime.sticky_error != kSuccess) return runtime.sticky_error;
  if (bytes == 0) return kSuccess;
  bool from_device = kind == 2 || kind == 3, to_device = kind == 1 || kind == 3;
  if ((from_device && !runtime.memory.valid(from, bytes)) ||
      (to_device && !runtime.memory.valid(to, bytes))) {
    return runtime.fail(kInvalidValue, "a copy to or from what is no device memory of " +
                                           std::to_string(bytes) + " B");
  }
  std::memmove(to, from, bytes);
  runtime.memory.copy_written(to, from, bytes);
  return kSuccess;
}

cudaError set(void* to, int value, size_t bytes) {
  Runtime& runtime = Runtime::get();
  if (runtime.sticky_error != kSuccess) return runtime.sticky_error;
  if (bytes == 0) return kSuccess;
  if (!runtime.memory.valid(to, bytes))
    return runtime.fail(kInvalidValue, "cudaMemset of what is no device memory");
  std::memset(to, value, bytes);
  runtime.memory.mark_written(to, bytes);
  return kSuccess;
}

cudaError allocate(void** memory, size_t bytes, Allocation::Kind kind, const char* label) {
  Runtime& runtime = Runtime::get();
  if (runtime.sticky_error != kSuccess) return runtime.sticky_error;
  *memory = runtime.memory.allocate(bytes, kind, label);
  if (*memory == nullptr) return runtime.fail(kMemoryAllocation, "");
  // What the host writes by itself is not seen: its memory counts as written.
  if (kind == Allocation::Kind::Host) runtime.memory.mark_written(*memory, bytes);
  return kSuccess;
}

cudaError release(void* memory) {
  Runtime& runtime = Runtime::get();
  if (memory == nullptr) return kSuccess;
  if (!runtime.memory.release(memory))
    return runtime.fail(kInvalidValue, "freeing what is not allocated");
  return kSuccess;
}

struct PushedCall {
  dim3 grid, block;
  size_t shared;
  void* stream;
};
thread_local std::vector<PushedCall> pushed_calls;

struct Event {
  std::chrono::steady_clock::time_point time;
};

cudaError attribute(int* value, int which) {
  const Device& device = Runtime::get().device;
  switch (which) {
    case 1:
      *value = 1024;
      break;  // threads per block
    case 2:
    case 3:
      *value = 1024;
      break;  // block x, y
    case 4:
      *value = 64;
      break;  // block z
    case 5:
      *value = 2147483647;
      break;  // grid x
    case 6:
    case 7:
      *value = 65535;
      break;  // grid y, z
    case 8:
      *value = static_cast<int>(kDefaultSharedLimit);
      break;
    case 9:
      *value = 64 << 10;
      break;  // constant memory
    case 10:
      *value = static_cast<int>(kLanes);
      break;
    case 12:
    case 82:
      *value = 65536;
      break;  // registers
    case 13:
      *value = 1410000;
      break;  // clock, kHz
    case 16:
      *value = device.multiprocessors;
      break;
    case 38:
      *value = 40 << 20;
      break;  // L2
    case 39:
      *value = device.threads_per_multiprocessor;
      break;
    case 41:
      *value = 1;
      break;  // unified addresses
    case 75:
      *value = device.architecture.number / 10;
      break;
    case 76:
      *value = device.architecture.number % 10;
      break;
    case 81:
      *value = device.shared_per_multiprocessor;
      break;
    case 95:
      *value = 1;
      break;  // cooperative launch
    case 97:
      *value = device.shared_per_block;
      break;
    case 106:
      *value = device.blocks_per_multiprocessor;
      break;
    case 111:
      *value = 1024;
      break;  // shared memory of the system
    case 115:
      *value = 1;
      break;  // memory pools
    default:
      *value = 0;
      break;
  }
  return kSuccess;
}

}  // namespace

extern "C" {

// ---- what nvcc's host code calls by itself
// -------------------------------------------------------------

void** __cudaRegisterFatBinary(void* wrapper) {
  return reinterpret_cast<void**>(
      Runtime::get().add(static_cast<FatBinaryWrapper*>(wrapper)->data));
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void** binary, const char* host, char*, const char* name, int, void*,
                            void*, void*, void*, int*) {
  Runtime::get().add_kernel(reinterpret_cast<Binary*>(binary), host, name);
}
void __cudaRegisterVar(void** binary, char* host, char*, const char* name, int, size_t, int, int) {
  reinterpret_cast<Binary*>(binary)->variables.push_back({name, host});
}
char __cudaInitModule(void**) { return 1; }
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  pushed_calls.push_back({grid, block, shared, stream});
  return 0;
}
cudaError __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (pushed_calls.empty()) return kInvalidConfiguration;
  PushedCall call = pushed_calls.back();
  pushed_calls.pop_back();
  *grid = call.grid;
  *block = call.block;
  *shared = call.shared;
  std::memcpy(stream, &call.stream, sizeof call.stream);
  return kSuccess;
}
cudaError __cudaGetKernel(const void** kernel, const void* host) {
  *kernel = host;
  return kSuccess;
}

// ---- launches
// ------------------------------------------------------------------------------------------

cudaError cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                           size_t shared, void*) {
  return launch_kernel(kernel, grid, block, arguments, shared, false);
}
cudaError __cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                             size_t shared, void*) {
  return launch_kernel(kernel, grid, block, arguments, shared, false);
}
cudaError cudaLaunchCooperativeKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                                      size_t shared, void*) {
  return launch_kernel(kernel, grid, block, arguments, shared, true);
}
cudaError cudaLaunchKernelExC(const LaunchConfig* config, const void* kernel, void** arguments) {
  bool cooperative = false;
  for (unsigned i = 0; i < config->attribute_count; i++) {
    const LaunchAttribute& given = config->attributes[i];
    if (given.id == kAttributeCooperative) cooperative = given.value.cooperative != 0;
    if (given.id == kAttributeCluster &&
        given.value.cluster.x * given.value.cluster.y * given.value.cluster.z > 1) {
      return Runtime::get().fail(kNotSupported, "clusters of more than one block are not emulated");
    }
  }
  return launch_kernel(kernel, config->grid, config->block, arguments, config->dynamic_shared,
                       cooperative);
}
cudaError cudaLaunchHostFunc(void*, void (*function)(void*), void* data) {
  function(data);
  return kSuccess;
}
cudaError cudaFuncSetAttribute(const void* host, int which, int value) {
  Runtime& runtime = Runtime::get();
  Kernel* kernel = runtime.kernel(host);
  if (kernel == nullptr)
    return runtime.fail(kInvalidDeviceFunction, "cudaFuncSetAttribute of what is no kernel");
  if (which != 8) return kSuccess;  // only the dynamic shared memory matters here
  if (value < 0 || value > runtime.device.shared_per_block) {
    return runtime.fail(
        kInvalidValue,
        std::to_string(value) + " B of shared memory are more than a block of the device has");
  }
  kernel->max_dynamic_shared = static_cast<uint64_t>(value);
  return kSuccess;
}
cudaError cudaFuncGetAttributes(FunctionAttributes* attributes, const void* host) {
  Runtime& runtime = Runtime::get();
  Kernel* kernel = runtime.kernel(host);
  if (kernel == nullptr) return runtime.fail(kInvalidDeviceFunction, "");
  cudaError error = kSuccess;
  const Module* module = runtime.module(*kernel->binary, error);
  if (module == nullptr) return error;
  auto found = module->functions.find(kernel->name);
  if (found == module->functions.end()) return runtime.fail(kInvalidDeviceFunction, "");
  const Function& function = *found->second;
  *attributes = {};
  attributes->shared_bytes = function.shared_bytes;
  attributes->local_bytes = function.local_bytes;
  attributes->max_threads =
      function.max_threads != 0 ? static_cast<int>(function.max_threads) : 1024;
  attributes->registers = 255;
  attributes->ptx_version = attributes->binary_version = runtime.device.architecture.number;
  attributes->max_dynamic_shared =
      static_cast<int>(std::max<uint64_t>(kernel->max_dynamic_shared, kDefaultSharedLimit));
  return kSuccess;
}
cudaError cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* host,
                                                                 int threads, size_t shared,
                                                                 unsigned) {
  Runtime& runtime = Runtime::get();
  Kernel* kernel = runtime.kernel(host);
  if (kernel == nullptr || threads <= 0) return runtime.fail(kInvalidDeviceFunction, "");
  cudaError error = kSuccess;
  const Module* module = runtime.module(*kernel->binary, error);
  if (module == nullptr) return error;
  *blocks = resident_blocks(*module, *kernel, static_cast<uint64_t>(threads), shared);
  return kSuccess;
}
cudaError cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* host, int threads,
                                                        size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, host, threads, shared, 0);
}

// ---- memory
// --------------------------------------------------------------------------------------------

cudaError cudaMalloc(void** memory, size_t bytes) {
  return allocate(memory, bytes, Allocation::Kind::Device, "cudaMalloc");
}
cudaError cudaMallocAsync(void** memory, size_t bytes, void*) { return cudaMalloc(memory, bytes); }
cudaError cudaMallocManaged(void** memory, size_t bytes, unsigned) {
  return allocate(memory, bytes, Allocation::Kind::Host, "cudaMallocManaged");
}
cudaError cudaMallocHost(void** memory, size_t bytes) {
  return allocate(memory, bytes, Allocation::Kind::Host, "cudaMallocHost");
}
cudaError cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  return cudaMallocHost(memory, bytes);
}
cudaError cudaFree(void* memory) { return release(memory); }
cudaError cudaFreeAsync(void* memory, void*) { return release(memory); }
cudaError cudaFreeHost(void* memory) { return release(memory); }
cudaError cudaHostRegister(void* memory, size_t bytes, unsigned) {
  Runtime::get().memory.add(memory, bytes, Allocation::Kind::Host, "cudaHostRegister");
  return kSuccess;
}
cudaError cudaHostUnregister(void* memory) {
  Runtime::get().memory.remove(memory);
  return kSuccess;
}
cudaError cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return kSuccess;
}
cudaError cudaMemcpy(void* to, const void* from, size_t bytes, int kind) {
  return copy(to, from, bytes, kind);
}
cudaError cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void*) {
  return copy(to, from, bytes, kind);
}
cudaError cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                            size_t width, size_t height, int kind, void*) {
  for (size_t row = 0; row < height; row++) {
    cudaError error = copy(static_cast<char*>(to) + row * to_pitch,
                           static_cast<const char*>(from) + row * from_pitch, width, kind);
    if (error != kSuccess) return error;
  }
  return kSuccess;
}
cudaError cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                       size_t height, int kind) {
  return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
}
cudaError cudaMemset(void* to, int value, size_t bytes) { return set(to, value, bytes); }
cudaError cudaMemsetAsync(void* to, int value, size_t bytes, void*) {
  return set(to, value, bytes);
}
cudaError cudaMemGetInfo(size_t* free, size_t* total) {
  *free = size_t{8} << 30;
  *total = size_t{8} << 30;
  return kSuccess;
}
cudaError cudaGetSymbolAddress(void** address, const void* symbol) {
  GlobalVariable* variable = Runtime::get().variable(symbol);
  if (variable == nullptr) return Runtime::get().fail(kInvalidSymbol, "no such variable");
  *address = reinterpret_cast<void*>(variable->address);
  return kSuccess;
}
cudaError cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset,
                             int) {
  GlobalVariable* variable = Runtime::get().variable(symbol);
  if (variable == nullptr || offset + bytes > variable->bytes)
    return Runtime::get().fail(kInvalidSymbol, "no such variable, or too small");
  std::memcpy(reinterpret_cast<char*>(variable->address) + offset, from, bytes);
  return kSuccess;
}
cudaError cudaMemcpyFromSymbol(void* to, const void* symbol, size_t bytes, size_t offset, int) {
  GlobalVariable* variable = Runtime::get().variable(symbol);
  if (variable == nullptr || offset + bytes > variable->bytes)
    return Runtime::get().fail(kInvalidSymbol, "no such variable, or too small");
  std::memcpy(to, reinterpret_cast<char*>(variable->address) + offset, bytes);
  return kSuccess;
}
cudaError cudaPointerGetAttributes(PointerAttributes* attributes, const void* pointer) {
  const Allocation* found = Runtime::get().memory.find(reinterpret_cast<uint64_t>(pointer));
  bool live = found != nullptr && !found->freed;
  attributes->type = !live ? 0 : found->kind == Allocation::Kind::Host ? 1 : 2;
  attributes->device = 0;
  attributes->device_pointer = live ? const_cast<void*>(pointer) : nullptr;
  attributes->host_pointer = attributes->type != 2 ? const_cast<void*>(pointer) : nullptr;
  return kSuccess;
}

// ---- devices, streams, events
// --------------------------------------------------------------------------

cudaError cudaGetDevice(int* device) {
  *device = 0;
  return kSuccess;
}
cudaError cudaSetDevice(int device) {
  return device == 0 ? kSuccess : Runtime::get().fail(kInvalidDevice, "");
}
cudaError cudaGetDeviceCount(int* count) {
  *count = 1;
  return kSuccess;
}
cudaError cudaDeviceGetAttribute(int* value, int which, int device) {
  return device == 0 ? attribute(value, which) : Runtime::get().fail(kInvalidDevice, "");
}
cudaError cudaDeviceSynchronize() { return Runtime::get().sticky_error; }
cudaError cudaDeviceReset() {
  Runtime::get().sticky_error = Runtime::get().last_error = kSuccess;
  return kSuccess;
}
cudaError cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}
cudaError cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }
cudaError cudaGetLastError() {
  Runtime& runtime = Runtime::get();
  cudaError error = runtime.last_error;
  runtime.last_error = runtime.sticky_error;
  return error;
}
cudaError cudaPeekAtLastError() { return Runtime::get().last_error; }
const char* cudaGetErrorName(cudaError error) {
  switch (error) {
    case kSuccess:
      return "cudaSuccess";
    case kInvalidValue:
      return "cudaErrorInvalidValue";
    case kMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case kInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case kInvalidSymbol:
      return "cudaErrorInvalidSymbol";
    case kInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case kInvalidDevice:
      return "cudaErrorInvalidDevice";
    case kNoKernelImage:
      return "cudaErrorNoKernelImageForDevice";
    case kInvalidPtx:
      return "cudaErrorInvalidPtx";
    case kIllegalAddress:
      return "cudaErrorIllegalAddress";
    case kLaunchOutOfResources:
      return "cudaErrorLaunchOutOfResources";
    case kMisalignedAddress:
      return "cudaErrorMisalignedAddress";
    case kLaunchFailure:
      return "cudaErrorLaunchFailure";
    case kCooperativeLaunchTooLarge:
      return "cudaErrorCooperativeLaunchTooLarge";
    case kNotSupported:
      return "cudaErrorNotSupported";
  }
  return "cudaErrorUnknown";
}
const char* cudaGetErrorString(cudaError error) { return cudaGetErrorName(error); }

cudaError cudaStreamCreateWithPriority(void** stream, unsigned, int) {
  *stream = std::malloc(1);
  return kSuccess;
}
cudaError cudaStreamCreateWithFlags(void** stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError cudaStreamCreate(void** stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError cudaStreamDestroy(void* stream) {
  std::free(stream);
  return kSuccess;
}
cudaError cudaStreamSynchronize(void*) { return Runtime::get().sticky_error; }
cudaError cudaStreamQuery(void*) { return Runtime::get().sticky_error; }
cudaError cudaStreamWaitEvent(void*, void*, unsigned) { return kSuccess; }
cudaError cudaStreamIsCapturing(void*, int* status) {
  *status = 0;
  return kSuccess;
}
cudaError cudaEventCreateWithFlags(void** event, unsigned) {
  *event = new Event{};
  return kSuccess;
}
cudaError cudaEventCreate(void** event) { return cudaEventCreateWithFlags(event, 0); }
cudaError cudaEventDestroy(void* event) {
  delete static_cast<Event*>(event);
  return kSuccess;
}
cudaError cudaEventRecord(void* event, void*) {
  static_cast<Event*>(event)->time = std::chrono::steady_clock::now();
  return kSuccess;
}
cudaError cudaEventSynchronize(void*) { return Runtime::get().sticky_error; }
cudaError cudaEventQuery(void*) { return Runtime::get().sticky_error; }
/// Time of this machine, which says nothing about a device's.
cudaError cudaEventElapsedTime(float* milliseconds, void* from, void* to) {
  std::chrono::duration<float, std::milli> elapsed =
      static_cast<Event*>(to)->time - static_cast<Event*>(from)->time;
  *milliseconds = elapsed.count();
  return kSuccess;
}

}  // extern "C"
