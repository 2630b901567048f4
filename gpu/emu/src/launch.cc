// The loop: blocks, warps in turn, and paths of a warp in lockstep.
#include "launch.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

#include "machine.h"

namespace emu {
namespace {

/// Instructions that a warp runs before the next one gets its turn.
constexpr unsigned kTurn = 1024;
/// Instructions after which a path of a diverged warp gives way to the next: lanes may wait for
/// each other.
constexpr unsigned kPatience = 4096;

uint64_t round_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

uint64_t special_value(const LaunchParameters& p, const Block& block, unsigned warp, unsigned lane,
                       Special special) {
  uint32_t thread = warp * kLanes + lane;
  switch (special) {
    case Special::TidX:
      return thread % p.block.x;
    case Special::TidY:
      return thread / p.block.x % p.block.y;
    case Special::TidZ:
      return thread / p.block.x / p.block.y;
    case Special::NTidX:
      return p.block.x;
    case Special::NTidY:
      return p.block.y;
    case Special::NTidZ:
      return p.block.z;
    case Special::CtaX:
      return block.x;
    case Special::CtaY:
      return block.y;
    case Special::CtaZ:
      return block.z;
    case Special::NCtaX:
      return p.grid.x;
    case Special::NCtaY:
      return p.grid.y;
    case Special::NCtaZ:
      return p.grid.z;
    case Special::Lane:
      return lane;
    case Special::WarpId:
      return warp;
    case Special::NWarpId:
      return block.warps.size();
    case Special::SmId:
      return block.x + p.grid.x * (block.y + uint64_t{p.grid.y} * block.z);
    case Special::NSmId:
      return p.grid.product();
    case Special::GridId:
      return 0;
    case Special::EnvReg1:
      return p.grid_workspace >> 32;
    case Special::EnvReg2:
      return p.grid_workspace & 0xffffffffu;
    case Special::DynamicShared:
      return p.dynamic_shared;
    case Special::TotalShared:
      return p.shared_bytes();
    case Special::LanesEq:
      return 1u << lane;
    case Special::LanesLt:
      return (1u << lane) - 1;
    case Special::LanesLe:
      return (2ull << lane) - 1;
    case Special::LanesGt:
      return static_cast<uint32_t>(~((2ull << lane) - 1));
    case Special::LanesGe:
      return static_cast<uint32_t>(~((1ull << lane) - 1));
    case Special::Zero:
      return 0;
    case Special::One:
      return 1;
  }
  return 0;
}

class Executor {
 public:
  Executor(const LaunchParameters& parameters, DeviceMemory& memory, ReportLog& log,
           std::atomic<uint64_t>& executed)
      : p_(parameters),
        memory_(memory),
        log_(log),
        executed_(executed),
        random_(parameters.options.seed) {}

  Counters counters;

  void start(Block& block, uint64_t index);
  /// Gives every warp a turn. False if none of them could do anything.
  bool turn(Block& block);
  [[noreturn]] void deadlock(const Block& block) const;

 private:
  bool run(Block& block, Warp& warp, unsigned instructions);
  Path* choose(Warp& warp);
  static void merge(Warp& warp);
  void check_in_flight(Context& context);
  uint64_t random() {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
  }

  const LaunchParameters& p_;
  DeviceMemory& memory_;
  ReportLog& log_;
  std::atomic<uint64_t>& executed_;
  uint64_t random_;
};

void Executor::start(Block& block, uint64_t index) {
  const Function& f = p_.function;
  block.x = static_cast<uint32_t>(index % p_.grid.x);
  block.y = static_cast<uint32_t>(index / p_.grid.x % p_.grid.y);
  block.z = static_cast<uint32_t>(index / p_.grid.x / p_.grid.y);
  block.done = false;
  uint64_t threads = p_.block.product();
  block.shared.assign(p_.shared_bytes(), 0xcc);
  block.shared_state.assign(p_.shared_bytes(), ByteState::Unwritten);
  block.warps.resize((threads + kLanes - 1) / kLanes);
  block.races.reset(static_cast<uint32_t>(p_.shared_bytes()),
                    static_cast<unsigned>(block.warps.size()));
  for (Barrier& barrier : block.barriers) barrier = {};
  block.mbarriers.clear();
  block.locations.clear();
  for (unsigned w = 0; w < block.warps.size(); w++) {
    Warp& warp = block.warps[w];
    warp.index = w;
    uint64_t left = threads - uint64_t{w} * kLanes;
    warp.alive = left >= kLanes ? kAllLanes : (1u << left) - 1;
    warp.slots.assign(size_t{f.slots} * kLanes, 0xdeadbeefdeadbeefull);
    warp.predicates.assign(f.predicates, 0xa5a5a5a5u);
    warp.predicates[kNever] = 0;
    warp.predicates[kAlways] = kAllLanes;
    warp.local.assign(size_t{f.local_bytes} * kLanes, 0xcc);
    warp.local_written.assign(size_t{f.local_bytes} * kLanes, 0);
    warp.paths.assign(1, Path{0, warp.alive});
    warp.steps = 0;
    warp.barrier = -1;
    warp.clock.fill(0);
    warp.clock[w] = 1;
    warp.copies.clear();
    warp.copy_group.fill(0);
    warp.products.clear();
    warp.product_group = 0;
    warp.slot_in_flight.assign(f.slots, 0);
    for (const Preset& preset : f.presets) {
      uint64_t* slot = warp.slots.data() + size_t{preset.slot} * kLanes;
      for (unsigned lane = 0; lane < kLanes; lane++) {
        switch (preset.kind) {
          case Preset::Constant:
            slot[lane] = preset.value;
            break;
          case Preset::SpecialRegister:
            slot[lane] = special_value(p_, block, w, lane, static_cast<Special>(preset.value));
            break;
          case Preset::SharedAddress:
            slot[lane] = kSharedBase + preset.value;
            break;
          case Preset::DynamicSharedAddress:
            slot[lane] = kSharedBase + p_.dynamic_base() + preset.value;
            break;
        }
      }
    }
  }
}

void Executor::merge(Warp& warp) {
  auto& paths = warp.paths;
  for (size_t i = 0; i < paths.size(); i++) {
    for (size_t j = i + 1; j < paths.size();) {
      bool waits =
          paths[i].wait == Path::Wait::WarpBarrier || paths[j].wait == Path::Wait::WarpBarrier;
      if (paths[i].pc == paths[j].pc && !waits) {
        paths[i].lanes |= paths[j].lanes;
        paths[i].wait = Path::Wait::None;
        paths.erase(paths.begin() + static_cast<std::ptrdiff_t>(j));
      } else {
        j++;
      }
    }
  }
}

/// The path at the lowest instruction, since there the others will come by. But lanes may wait for
/// each other, so every second phase goes to the paths in turn.
Path* Executor::choose(Warp& warp) {
  auto& paths = warp.paths;
  uint64_t phase = warp.steps++ / kPatience;
  if (phase % 2 == 1) {
    Path& next = paths[phase / 2 % paths.size()];
    if (next.wait == Path::Wait::None) return &next;
  }
  Path* best = nullptr;
  for (Path& path : paths) {
    if (path.wait == Path::Wait::None && (best == nullptr || path.pc < best->pc)) best = &path;
  }
  return best;
}

void Executor::check_in_flight(Context& context) {
  const Instruction& i = *context.instruction;
  if (i.asynchronous) return;
  auto check = [&](uint32_t slot) {
    if (slot == kNoSlot || context.warp.slot_in_flight[slot] == 0) return;
    context.report(ReportKind::InFlight, "a register of a wgmma that was not waited for is used");
  };
  for_each_source(context.function, i, check);
  for_each_result(context.function, i, check);
}

bool Executor::run(Block& block, Warp& warp, unsigned instructions) {
  if (warp.alive == 0 || warp.barrier >= 0) return false;
  const auto& code = p_.function.code;
  Context context{p_, p_.function, memory_, counters, log_, block, warp};
  bool any = false;
  unsigned done = 0;
  for (; done < instructions && !context.yields; done++) {
    Path* path = warp.paths.size() == 1 && warp.paths[0].wait == Path::Wait::None ? &warp.paths[0]
                                                                                  : choose(warp);
    if (path == nullptr) {
      context.instruction = &code[warp.paths[0].pc];
      context.fault(ReportKind::Deadlock, "lanes of the member mask never come here");
    }
    if (path->pc >= code.size()) {
      // The end of the text is a return.
      static const Instruction end;
      context.instruction = &end;
      warp.alive &= ~path->lanes;
      warp.paths.erase(warp.paths.begin() + (path - warp.paths.data()));
      for (Path& other : warp.paths) other.wait = Path::Wait::None;
      if (warp.alive == 0) break;
      continue;
    }
    const Instruction& i = code[path->pc];
    context.instruction = &i;
    context.lanes = path->lanes;
    context.active = path->lanes;
    if (i.guard != 0) {
      uint32_t guard = warp.predicates[i.guard];
      context.active &= i.guard_negated ? ~guard : guard;
    }
    counters.warp_instructions++;
    any = true;
    if (context.active == 0) {
      path->pc++;
      if (warp.paths.size() > 1) merge(warp);
      continue;
    }
    if (!warp.products.empty()) check_in_flight(context);
    context.outcome = Context::Outcome::Next;
    uint32_t pc = path->pc;
    i.handler(context, i);
    if (context.outcome == Context::Outcome::Next) {
      // Handlers that only compute leave the paths alone, so `path` still stands.
      path->pc = pc + 1;
    }
    if (warp.paths.size() > 1) merge(warp);
    if (warp.alive == 0 || warp.barrier >= 0) break;
  }
  if (warp.alive == 0) release_barriers(block);
  if (executed_.fetch_add(done, std::memory_order_relaxed) > p_.options.instruction_limit) {
    context.fault(ReportKind::Limit,
                  "more than " + std::to_string(p_.options.instruction_limit) +
                      " warp instructions: the kernel hangs, or the limit is too low");
  }
  return any;
}

bool Executor::turn(Block& block) {
  bool any = false;
  size_t warps = block.warps.size();
  size_t first = random_ != 0 ? random() % warps : 0;
  for (size_t n = 0; n < warps; n++) {
    // Long turns are as likely as short ones: some warps run far ahead of others.
    unsigned instructions =
        random_ != 0 ? 1 + static_cast<unsigned>(random() % (1u << random() % 17)) : kTurn;
    any |= run(block, block.warps[(first + n) % warps], instructions);
  }
  block.done = std::all_of(block.warps.begin(), block.warps.end(),
                           [](const Warp& w) { return w.alive == 0; });
  return any || block.done;
}

void Executor::deadlock(const Block& block) const {
  std::string text;
  for (const Warp& warp : block.warps) {
    if (warp.alive == 0) continue;
    text += (text.empty() ? "" : "; ") + ("warp " + std::to_string(warp.index)) +
            " waits at barrier " + std::to_string(warp.barrier) + ", PTX line " +
            std::to_string(warp.at_barrier != nullptr ? warp.at_barrier->line : 0);
  }
  throw Fault(ReportKind::Deadlock, "deadlock in kernel " + p_.function.name + ", block (" +
                                        std::to_string(block.x) + ", " + std::to_string(block.y) +
                                        ", " + std::to_string(block.z) + "): " + text);
}

}  // namespace

const char* name_of(ReportKind kind) {
  switch (kind) {
    case ReportKind::OutOfBounds:
      return "out of bounds";
    case ReportKind::UseAfterFree:
      return "use after free";
    case ReportKind::Misaligned:
      return "misaligned";
    case ReportKind::Uninitialized:
      return "uninitialised read";
    case ReportKind::Race:
      return "race";
    case ReportKind::InFlight:
      return "in flight";
    case ReportKind::Deadlock:
      return "deadlock";
    case ReportKind::Limit:
      return "instruction limit";
    case ReportKind::Divergence:
      return "divergence";
    case ReportKind::MemberMask:
      return "member mask";
    case ReportKind::Trap:
      return "trap";
    case ReportKind::Unsupported:
      return "not supported";
  }
  return "";
}

bool LaunchOptions::tolerates(ReportKind kind) const {
  return std::find(tolerated.begin(), tolerated.end(), kind) != tolerated.end();
}

void Counters::add(const Counters& other) {
  warp_instructions += other.warp_instructions;
  tensor_instructions += other.tensor_instructions;
  multiply_adds += other.multiply_adds;
  global_bytes_read += other.global_bytes_read;
  global_bytes_written += other.global_bytes_written;
  shared_bytes_read += other.shared_bytes_read;
  shared_bytes_written += other.shared_bytes_written;
  barriers += other.barriers;
}

void ReportLog::add(ReportKind kind, uint32_t line, const std::string& what) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto [it, is_new] = reports_.try_emplace({kind, line}, Report{kind, line, what, 0});
  it->second.times++;
}

std::vector<Report> ReportLog::all() const {
  std::vector<Report> list;
  for (const auto& [key, report] : reports_) list.push_back(report);
  return list;
}

uint64_t LaunchParameters::dynamic_base() const {
  return round_up(function.shared_bytes, function.shared_alignment);
}

uint64_t LaunchParameters::shared_bytes() const { return dynamic_base() + dynamic_shared; }

LaunchResult launch(const Module& module, const std::string& kernel, Dimensions grid,
                    Dimensions block, uint32_t dynamic_shared, const void* const* arguments,
                    bool cooperative, DeviceMemory& memory, const LaunchOptions& options) {
  const Function& function = module.kernel(kernel);
  uint64_t threads = block.product();
  if (grid.product() == 0 || threads == 0 || threads > kMaxWarps * kLanes) {
    throw Error("a launch of " + kernel + " with " + std::to_string(threads) + " threads in " +
                std::to_string(grid.product()) + " blocks is not possible");
  }
  if (function.max_threads != 0 && threads > function.max_threads) {
    throw Error("kernel " + kernel + " was compiled for at most " +
                std::to_string(function.max_threads) + " threads");
  }
  LaunchParameters p{module, function, grid, block, dynamic_shared, cooperative, {}, 0, options};
  p.arguments.resize(function.parameter_bytes);
  for (size_t i = 0; i < function.parameters.size(); i++) {
    const Parameter& parameter = function.parameters[i];
    std::memcpy(p.arguments.data() + parameter.offset, arguments[i], parameter.bytes);
  }
  alignas(16) uint8_t workspace[64] = {};
  if (cooperative) {
    p.grid_workspace = reinterpret_cast<uint64_t>(workspace);
    memory.add(workspace, sizeof workspace, Allocation::Kind::Module, "grid barrier");
  }

  ReportLog log;
  std::atomic<uint64_t> executed{0};
  Counters counters;
  std::exception_ptr failure;
  if (cooperative) {
    // All blocks are resident and take turns, since they wait for each other.
    Executor executor(p, memory, log, executed);
    std::vector<Block> blocks(grid.product());
    try {
      for (uint64_t i = 0; i < blocks.size(); i++) executor.start(blocks[i], i);
      for (bool running = true; running;) {
        running = false;
        bool any = false;
        for (Block& resident : blocks) {
          if (resident.done) continue;
          any |= executor.turn(resident);
          running |= !resident.done;
        }
        if (running && !any) {
          executor.deadlock(
              *std::find_if(blocks.begin(), blocks.end(), [](const Block& b) { return !b.done; }));
        }
      }
    } catch (...) {
      failure = std::current_exception();
    }
    counters.add(executor.counters);
    memory.remove(workspace);
  } else {
    std::atomic<uint64_t> next{0};
    std::mutex mutex;
    auto work = [&] {
      Executor executor(p, memory, log, executed);
      Block resident;
      try {
        for (uint64_t i; (i = next.fetch_add(1)) < grid.product();) {
          executor.start(resident, i);
          while (!resident.done) {
            if (!executor.turn(resident)) executor.deadlock(resident);
          }
        }
      } catch (...) {
        next = grid.product();
        std::lock_guard<std::mutex> lock(mutex);
        if (!failure) failure = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(mutex);
      counters.add(executor.counters);
    };
    uint64_t workers = function.uses_global_atomics
                           ? 1
                           : std::min<uint64_t>(std::max(1u, options.host_threads), grid.product());
    std::vector<std::thread> threads_of_host;
    for (uint64_t i = 1; i < workers; i++) threads_of_host.emplace_back(work);
    work();
    for (std::thread& thread : threads_of_host) thread.join();
  }
  if (failure) std::rethrow_exception(failure);
  return {counters, log.all()};
}

}  // namespace emu
