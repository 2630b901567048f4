// Device memory: which addresses a kernel may touch, and which bytes hold something.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "types.h"

namespace emu {

/// Generic addresses: windows that no host pointer lies in, as the hardware has them.
constexpr uint64_t kSharedWindow = 0x0100000000000000ull;
constexpr uint64_t kLocalWindow = 0x0200000000000000ull;
constexpr uint64_t kParamWindow = 0x0300000000000000ull;
constexpr uint64_t kWindowMask = 0xff00000000000000ull;
/// Shared memory does not begin at 0, so that a null pointer into it is a fault.
constexpr uint64_t kSharedBase = 1024;

/// A range of bytes a kernel may access. Device memory is host memory at the same address.
struct Allocation {
  enum class Kind : uint8_t { Device, Host, Module, Constant };
  uint64_t address;
  uint64_t bytes;
  Kind kind;
  bool freed = false;
  std::string label;
  /// One byte per byte: not 0 where it was written. Null where everything counts as written.
  uint8_t* written = nullptr;

  bool holds(uint64_t first, uint64_t count) const {
    return first >= address && count <= bytes && first - address <= bytes - count;
  }
};

/// The allocations of a process. Calls may come from several threads; a launch reads the table
/// unlocked, so allocations must not change while one runs.
class DeviceMemory {
 public:
  ~DeviceMemory();

  /// Uninitialised memory, aligned to 256. Null if the host has none.
  void* allocate(uint64_t bytes, Allocation::Kind kind, const std::string& label);
  /// False if `address` is not the begin of a live allocation. The range stays known, so that a
  /// later use is a fault that names it.
  bool release(void* address);
  /// Makes memory of the host's own, which counts as written, accessible to kernels.
  void add(const void* address, uint64_t bytes, Allocation::Kind kind, const std::string& label);
  void remove(const void* address);

  /// The allocation that holds the address, freed ones included; null if there is none.
  const Allocation* find(uint64_t address) const;
  void mark_written(const void* address, uint64_t bytes);
  /// After a copy of the bytes: the target's count as written where the source's do.
  void copy_written(void* to, const void* from, uint64_t bytes);
  /// Whether the range lies in one live allocation.
  bool valid(const void* address, uint64_t bytes) const;
  /// "cudaMalloc #3 (4096 B) + 4100", for messages.
  std::string describe(uint64_t address) const;

 private:
  void forget(std::map<uint64_t, Allocation>::iterator it);
  void make_room(uint64_t begin, uint64_t end);

  mutable std::mutex mutex_;
  std::map<uint64_t, Allocation> allocations_;
  std::vector<uint64_t> quarantine_;  ///< freed, oldest first; their memory is still held
  uint64_t quarantined_bytes_ = 0;
  uint64_t count_ = 0;
};

/// The memory of the process's one emulated device.
DeviceMemory& device_memory();

}  // namespace emu
