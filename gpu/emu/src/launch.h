// Launching a kernel on the executor.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "memory.h"
#include "module.h"

namespace emu {

enum class ReportKind : uint8_t {
  OutOfBounds,
  UseAfterFree,
  Misaligned,
  Uninitialized,  ///< a read of bytes that nobody wrote, or that a copy in flight will write
  Race,
  InFlight,  ///< an accumulator touched before its wgmma.wait_group
  Deadlock,
  Limit,       ///< more instructions than allowed
  Divergence,  ///< an instruction for whole warps executed by part of one
  MemberMask,  ///< a lane executes a .sync instruction whose mask does not name it
  Trap,
  Unsupported,  ///< of values that are only known at run time
};
const char* name_of(ReportKind kind);

/// A launch that was stopped.
struct Fault : Error {
  Fault(ReportKind kind, const std::string& what) : Error(what), kind(kind) {}
  ReportKind kind;
};

struct Report {
  ReportKind kind;
  uint32_t line;  ///< of the PTX text
  std::string what;
  uint64_t times;
};

struct Dimensions {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t product() const { return uint64_t{x} * y * z; }
};

struct LaunchOptions {
  /// Warp instructions after which a launch counts as hanging.
  uint64_t instruction_limit = 4'000'000'000;
  /// Threads of the host for blocks that can not meet: kernels without atomics on global memory.
  unsigned host_threads = 1;
  /// Not 0: warps take turns in an order and for times that this number decides.
  uint64_t seed = 0;
  /// Kinds that are written down and do not stop the launch.
  std::vector<ReportKind> tolerated = {ReportKind::MemberMask};
  bool tolerates(ReportKind kind) const;
};

struct Counters {
  uint64_t warp_instructions = 0;
  uint64_t tensor_instructions = 0;  ///< mma and wgmma, per warp
  uint64_t multiply_adds = 0;        ///< of those
  uint64_t global_bytes_read = 0;    ///< distinct ones of a load of a warp, as there is one fetch; no cache is modelled
  uint64_t global_bytes_written = 0;
  uint64_t shared_bytes_read = 0;
  uint64_t shared_bytes_written = 0;
  uint64_t barriers = 0;
  void add(const Counters& other);
};

/// Reports of the host threads of a launch.
class ReportLog {
 public:
  void add(ReportKind kind, uint32_t line, const std::string& what);
  std::vector<Report> all() const;

 private:
  std::mutex mutex_;
  std::map<std::pair<ReportKind, uint32_t>, Report> reports_;
};

struct LaunchParameters {
  const Module& module;
  const Function& function;
  Dimensions grid;
  Dimensions block;
  uint32_t dynamic_shared = 0;
  bool cooperative = false;
  std::vector<uint8_t> arguments;  ///< parameter space, laid out as the function's parameters say
  uint64_t grid_workspace = 0;     ///< address of the cooperative launch's barrier word
  LaunchOptions options;
  /// Offset of the dynamic shared memory, which follows the static variables.
  uint64_t dynamic_base() const;
  uint64_t shared_bytes() const;
};

struct LaunchResult {
  Counters counters;
  std::vector<Report> reports;  ///< of tolerated kinds
};

/// Runs a kernel to its end. `arguments` points to one value per parameter. Throws Fault where the
/// kernel does what it must not, Error where the launch itself is not possible.
LaunchResult launch(const Module& module, const std::string& kernel, Dimensions grid,
                    Dimensions block, uint32_t dynamic_shared, const void* const* arguments,
                    bool cooperative, DeviceMemory& memory, const LaunchOptions& options = {});

}  // namespace emu
