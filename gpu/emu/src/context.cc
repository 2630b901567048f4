// What handlers do with memory, barriers and paths; and how a fault is told.
#include <algorithm>

#include "machine.h"

namespace emu {
namespace {

std::string hexadecimal(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

/// Whether all of the bytes are 1.
bool all_ones(const uint8_t* flags, uint32_t count) {
  for (; count >= 8; flags += 8, count -= 8) {
    uint64_t eight;
    std::memcpy(&eight, flags, 8);
    if (eight != 0x0101010101010101ull) return false;
  }
  for (; count > 0; flags++, count--) {
    if (*flags != 1) return false;
  }
  return true;
}

}  // namespace

void Context::fault(ReportKind kind, const std::string& what, int lane) {
  uint32_t thread = warp.index * kLanes + static_cast<uint32_t>(std::max(lane, 0));
  std::string place =
      "kernel " + function.name + ", block (" + std::to_string(block.x) + ", " +
      std::to_string(block.y) + ", " + std::to_string(block.z) + "), " +
      (lane < 0 ? "warp " + std::to_string(warp.index) : "thread " + std::to_string(thread));
  throw Fault(kind, std::string(name_of(kind)) + " at PTX line " +
                        std::to_string(instruction->line) + ": " + what + "\n  in " + place);
}

void Context::report(ReportKind kind, const std::string& what, int lane) {
  if (!launch.options.tolerates(kind)) fault(kind, what, lane);
  log.add(kind, instruction->line, what);
}

uint32_t Context::shared_offset(uint64_t address, uint32_t bytes, unsigned lane) {
  uint64_t size = block.shared.size();
  uint64_t offset = address - kSharedBase;
  if (address < kSharedBase || bytes > size || offset > size - bytes) {
    fault(ReportKind::OutOfBounds,
          std::to_string(bytes) + " B at shared address " + hexadecimal(address) +
              "; the block has " + std::to_string(size) + " B from " + hexadecimal(kSharedBase),
          static_cast<int>(lane));
  }
  if (offset % bytes != 0) {
    fault(ReportKind::Misaligned,
          std::to_string(bytes) + " B at shared address " + hexadecimal(address),
          static_cast<int>(lane));
  }
  return static_cast<uint32_t>(offset);
}

void Context::touch_shared(uint32_t offset, uint32_t bytes, unsigned lane, Access kind) {
  ByteState* state = block.shared_state.data() + offset;
  if (kind != Access::Write) {
    static_assert(static_cast<int>(ByteState::Written) == 1, "all_ones() looks for it");
    if (!all_ones(reinterpret_cast<const uint8_t*>(state), bytes)) {
      uint32_t i = 0;
      while (state[i] == ByteState::Written) i++;
      std::string where = "shared address " + hexadecimal(kSharedBase + offset + i);
      if (state[i] == ByteState::InFlight) {
        fault(ReportKind::Uninitialized, where + " is the target of a cp.async that was not waited for",
              static_cast<int>(lane));
      }
      report(ReportKind::Uninitialized, where + " was never written", static_cast<int>(lane));
    }
    counters.shared_bytes_read += bytes;
  }
  if (kind != Access::Read) {
    if (std::find(state, state + bytes, ByteState::InFlight) != state + bytes) {
      report(ReportKind::Race,
             "shared address " + hexadecimal(kSharedBase + offset) +
                 " is written while a cp.async to it is in flight",
             static_cast<int>(lane));
    }
    std::fill_n(state, bytes, ByteState::Written);
    counters.shared_bytes_written += bytes;
  }
  if (block.warps.size() == 1) return;
  Conflict conflict =
      kind == Access::Read
          ? block.races.read(warp.index, warp.clock, offset, bytes, instruction->line)
          : block.races.write(warp.index, warp.clock, offset, bytes, instruction->line);
  if (conflict.found) {
    report(ReportKind::Race,
           std::string(kind == Access::Read ? "read" : "write") + " of shared address " +
               hexadecimal(kSharedBase + conflict.address) + " by warp " +
               std::to_string(warp.index) + " and " +
               (conflict.earlier_was_write ? "write" : "read") + " by warp " +
               std::to_string(conflict.warp) + " at PTX line " + std::to_string(conflict.line) +
               " without synchronisation between them",
           static_cast<int>(lane));
  }
}

uint8_t* Context::access(Space space, uint64_t address, uint32_t bytes, unsigned lane,
                         Access kind) {
  if (space == Space::Generic) {
    switch (address & kWindowMask) {
      case kSharedWindow:
        space = Space::Shared;
        break;
      case kLocalWindow:
        space = Space::Local;
        break;
      case kParamWindow:
        space = Space::Param;
        break;
      default:
        space = Space::Global;
        break;
    }
    if (space != Space::Global) address &= ~kWindowMask;
  }
  auto out_of = [&](const char* name, uint64_t size) {
    fault(ReportKind::OutOfBounds,
          std::to_string(bytes) + " B at offset " + std::to_string(static_cast<int64_t>(address)) +
              " of " + std::to_string(size) + " B of " + name,
          static_cast<int>(lane));
  };
  switch (space) {
    case Space::Shared: {
      // Addresses of shared memory have 32 bits.
      uint32_t offset = shared_offset(static_cast<uint32_t>(address), bytes, lane);
      touch_shared(offset, bytes, lane, kind);
      return block.shared.data() + offset;
    }
    case Space::Local: {
      if (bytes > function.local_bytes || address > function.local_bytes - bytes) {
        out_of("local memory", function.local_bytes);
      }
      if (address % bytes != 0)
        fault(ReportKind::Misaligned, "local memory", static_cast<int>(lane));
      size_t place = size_t{lane} * function.local_bytes + address;
      uint8_t* written = warp.local_written.data() + place;
      if (kind != Access::Read) {
        std::fill_n(written, bytes, uint8_t{1});
      } else if (!all_ones(written, bytes)) {
        report(ReportKind::Uninitialized,
               "offset " + std::to_string(address) + " of local memory was never written",
               static_cast<int>(lane));
      }
      return warp.local.data() + place;
    }
    case Space::Param: {
      uint64_t size = launch.arguments.size();
      if (kind != Access::Read)
        fault(ReportKind::OutOfBounds, "parameters are not to be written", static_cast<int>(lane));
      if (bytes > size || address > size - bytes) out_of("parameters", size);
      if (address % bytes != 0) fault(ReportKind::Misaligned, "parameters", static_cast<int>(lane));
      return const_cast<uint8_t*>(launch.arguments.data()) + address;
    }
    default:
      break;
  }

  if (last_allocation == nullptr || !last_allocation->holds(address, bytes)) {
    last_allocation = memory.find(address);
    if (last_allocation == nullptr || !last_allocation->holds(address, bytes)) {
      last_allocation = nullptr;
      fault(
          ReportKind::OutOfBounds,
          std::to_string(bytes) + " B at " + hexadecimal(address) + ": " + memory.describe(address),
          static_cast<int>(lane));
    }
  }
  const Allocation& found = *last_allocation;
  if (found.freed)
    fault(ReportKind::UseAfterFree, memory.describe(address), static_cast<int>(lane));
  if (address % bytes != 0) {
    fault(ReportKind::Misaligned,
          std::to_string(bytes) + " B at " + hexadecimal(address) + ": " + memory.describe(address),
          static_cast<int>(lane));
  }
  if (kind != Access::Read && found.kind == Allocation::Kind::Constant) {
    fault(ReportKind::OutOfBounds, "constants are not to be written: " + memory.describe(address),
          static_cast<int>(lane));
  }
  if (found.written != nullptr) {
    uint8_t* written = found.written + (address - found.address);
    if (kind != Access::Write && !all_ones(written, bytes)) {
      auto hole = static_cast<uint64_t>(std::find(written, written + bytes, 0) - written);
      report(ReportKind::Uninitialized, memory.describe(address + hole) + " was never written",
             static_cast<int>(lane));
    }
    if (kind != Access::Read) std::fill_n(written, bytes, uint8_t{1});
  }
  if (kind != Access::Write) counters.global_bytes_read += bytes;
  if (kind != Access::Read) counters.global_bytes_written += bytes;
  return reinterpret_cast<uint8_t*>(address);
}

bool Context::converge(uint32_t mask) {
  uint32_t missing = mask & warp.alive & ~active;
  if ((active & ~mask) != 0) {
    report(ReportKind::MemberMask,
           "lanes execute the instruction that its member mask does not name");
  }
  if (missing == 0) return true;
  if ((missing & lanes) != 0) {
    fault(ReportKind::Divergence,
          "lanes of the member mask are kept from the instruction by its guard");
  }
  for (Path& path : warp.paths) {
    if (path.lanes != lanes) continue;
    path.wait = Path::Wait::Converge;
  }
  outcome = Outcome::Retry;
  return false;
}

bool Context::whole_warp() {
  if (active == kAllLanes) return true;
  if (!converge(kAllLanes)) return false;
  fault(ReportKind::Divergence, "an instruction for a whole warp, part of which has left");
}

void Context::acquire_at(uint64_t address) {
  auto place = block.locations.find(address);
  if (place != block.locations.end()) join(warp.clock, place->second);
}

void Context::release_at(uint64_t address) {
  join(block.locations.try_emplace(address, Clock{}).first->second, warp.clock);
  release();
}

void Context::arrive(Barrier& barrier, uint32_t threads) {
  barrier.arrived += kLanes;
  barrier.needed = threads;
  barrier.members += static_cast<uint32_t>(__builtin_popcount(active));
  join(barrier.clock, warp.clock);
  release();
  counters.barriers++;
}

void release_barriers(Block& block) {
  uint32_t alive = 0;
  for (const Warp& warp : block.warps) alive += warp.alive != 0 ? kLanes : 0;
  for (int id = 0; id < static_cast<int>(kBarriers + kWarpgroupBarriers); id++) {
    Barrier& barrier = block.barriers[id];
    uint32_t needed = barrier.needed != 0 ? barrier.needed : alive;
    if (barrier.arrived == 0 || barrier.arrived < needed) continue;
    for (Warp& warp : block.warps) {
      if (warp.barrier != id) continue;
      join(warp.clock, barrier.clock);
      warp.barrier = -1;
      const Instruction& i = *warp.at_barrier;
      if (i.mode == 0) continue;
      // bar.red: the result is for the lanes that still run, which are those that arrived.
      bool holds = i.mode == 2 ? barrier.count == barrier.members : barrier.count != 0;
      if (i.mode == 1) {
        for_lanes(warp.alive, [&](unsigned lane) {
          warp.slots[size_t{i.target} * kLanes + lane] = barrier.count;
        });
      } else {
        uint32_t& predicate = warp.predicates[i.target_predicate];
        predicate = holds ? predicate | warp.alive : predicate & ~warp.alive;
      }
    }
    barrier = {};
  }
}

void complete_copies(Context& context, const std::array<uint32_t, kLanes>& limit) {
  Block& block = context.block;
  auto& copies = context.warp.copies;
  // Copies arrive in the order in which they were issued.
  size_t kept = 0;
  for (const AsyncCopy& copy : copies) {
    if ((context.active >> copy.lane & 1) == 0 || copy.group >= limit[copy.lane]) {
      copies[kept++] = copy;
      continue;
    }
    uint8_t* target = block.shared.data() + copy.target;
    if (copy.copied > 0)
      std::memcpy(target, reinterpret_cast<const void*>(copy.source), copy.copied);
    std::memset(target + copy.copied, 0, copy.bytes - copy.copied);
    std::fill_n(block.shared_state.begin() + copy.target, copy.bytes, ByteState::Unwritten);
    context.touch_shared(copy.target, copy.bytes, copy.lane, Access::Write);
  }
  copies.resize(kept);
}

}  // namespace emu
