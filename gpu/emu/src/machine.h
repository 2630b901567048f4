// The state of a running launch: blocks, warps, lanes, and what handlers may do with them.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "launch.h"
#include "memory.h"
#include "module.h"
#include "races.h"

namespace emu {

/// Lanes of a warp that stand at one instruction.
struct Path {
  enum class Wait : uint8_t { None, Converge, WarpBarrier };
  uint32_t pc;
  uint32_t lanes;
  Wait wait = Wait::None;
  uint32_t wait_mask = 0;  ///< of a bar.warp.sync
};

/// A cp.async whose bytes have not arrived. They do when a wait says so and not before.
struct AsyncCopy {
  uint32_t target;
  uint64_t source;
  uint8_t bytes;
  uint8_t copied;  ///< the rest is zeros
  uint8_t lane;
  uint32_t group;
};

/// A wgmma that was not waited for: its accumulators and the shared memory it reads are not to be
/// touched.
struct AsyncProduct {
  uint32_t group;
  std::vector<uint32_t> slots;
  std::vector<uint32_t> units;  ///< shared addresses of the 16-byte rows it reads
};

struct Warp {
  unsigned index = 0;
  uint32_t alive = 0;
  std::vector<uint64_t> slots;  ///< [slot][lane]
  std::vector<uint32_t> predicates;
  uint32_t carry = 0;          ///< the condition code's carry flag, by lane
  std::vector<uint8_t> local;  ///< [lane][byte]
  std::vector<uint8_t> local_written;
  std::vector<Path> paths;
  uint64_t steps = 0;  ///< instructions while there were several paths
  int barrier = -1;    ///< the block barrier it waits at
  const Instruction* at_barrier = nullptr;
  Clock clock{};
  std::vector<AsyncCopy> copies;
  std::array<uint32_t, kLanes> copy_group{};
  std::vector<AsyncProduct> products;
  uint32_t product_group = 0;
  std::vector<uint8_t> slot_in_flight;
};

struct Barrier {
  uint32_t arrived = 0;  ///< threads
  uint32_t needed = 0;   ///< 0: all threads that have not left
  Clock clock{};
  uint32_t count = 0;  ///< of bar.red: threads whose predicate holds
  uint32_t members = 0;
};

struct MBarrier {
  uint32_t expected;
  uint32_t pending;
  int64_t transactions = 0;
  uint64_t phase = 0;
  Clock arriving{};   ///< of those who arrived in this phase
  Clock completed{};  ///< of all phases that are complete
};

enum class ByteState : uint8_t { Unwritten, Written, InFlight };

/// Barriers 0 … 15 are those of PTX; then one for every warpgroup's wgmma waits.
constexpr unsigned kBarriers = 16;
constexpr unsigned kWarpgroupBarriers = kMaxWarps / 4;

struct Block {
  uint32_t x = 0, y = 0, z = 0;
  std::vector<uint8_t> shared;
  std::vector<ByteState> shared_state;
  std::vector<Warp> warps;
  Barrier barriers[kBarriers + kWarpgroupBarriers];
  std::map<uint32_t, MBarrier> mbarriers;
  std::unordered_map<uint64_t, Clock> locations;  ///< clocks of atomics, by address
  RaceDetector races;
  bool done = false;
};

enum class Access : uint8_t { Read, Write, Atomic };

/// What a handler sees: one instruction of one warp.
struct Context {
  const LaunchParameters& launch;
  const Function& function;
  DeviceMemory& memory;
  Counters& counters;
  ReportLog& log;
  Block& block;
  Warp& warp;
  const Allocation* last_allocation = nullptr;
  const Instruction* instruction = nullptr;
  uint32_t lanes = 0;   ///< that stand at the instruction
  uint32_t active = 0;  ///< of those, where the guard holds
  enum class Outcome : uint8_t { Next, Moved, Retry } outcome = Outcome::Next;
  bool yields = false;  ///< others should run now: this warp spins or waits

  uint64_t* slot(uint32_t id) { return warp.slots.data() + static_cast<size_t>(id) * kLanes; }
  uint32_t slot_of(const List& list, uint32_t n) const { return function.lists[list.first + n]; }
  uint64_t* slot(const List& list, uint32_t n) { return slot(slot_of(list, n)); }
  uint32_t predicate(uint32_t id) const { return warp.predicates[id]; }
  void set_predicate(uint32_t id, uint32_t lanes_true) {
    warp.predicates[id] = (warp.predicates[id] & ~active) | (lanes_true & active);
  }
  uint32_t source_predicate(const Instruction& i) const {
    return i.source_negated ? ~predicate(i.source_predicate) : predicate(i.source_predicate);
  }

  /// Memory of one access of one lane, checked. Generic addresses are resolved.
  uint8_t* access(Space space, uint64_t address, uint32_t bytes, unsigned lane, Access kind);
  /// Bounds and alignment of shared memory only; gives the offset from its begin.
  uint32_t shared_offset(uint64_t address, uint32_t bytes, unsigned lane);
  /// Checks and records an access to shared memory that is in bounds.
  void touch_shared(uint32_t offset, uint32_t bytes, unsigned lane, Access kind);

  /// True when all lanes of the mask that still run are here. Otherwise the path waits for them.
  bool converge(uint32_t mask);
  /// Counts the warp's clock on: what follows is not ordered before what was released now.
  void release() { warp.clock[warp.index]++; }
  /// Synchronises through a place in memory, as atomics and flags do: with who released there
  /// before …
  void acquire_at(uint64_t address);
  /// … and for who acquires there later.
  void release_at(uint64_t address);
  /// True when the whole warp is here, as .aligned instructions need; otherwise the path waits for
  /// it.
  bool whole_warp();
  void arrive(Barrier& barrier, uint32_t threads);

  /// Stops the launch, unless the kind is one that the options tolerate: then it is written down
  /// once.
  void report(ReportKind kind, const std::string& what, int lane = -1);
  [[noreturn]] void fault(ReportKind kind, const std::string& what, int lane = -1);
};

/// Lets waiting warps go where a barrier has all it needs.
void release_barriers(Block& block);
/// Applies the copies of the active lanes whose group is below the lane's limit.
void complete_copies(Context& context, const std::array<uint32_t, kLanes>& limit);

}  // namespace emu
