// Barriers of the warp and of the block, and mbarriers.
#include <algorithm>

#include "operators.h"
#include "statement.h"

namespace emu {
namespace {

// ---- barriers of the block
// -----------------------------------------------------------------------------

enum BarrierMode : uint8_t { kPlain, kCount, kAndAll, kOrAny };  // as release_barriers() reads them

void block_barrier(Context& c, const Instruction& i) {
  if (!c.converge(c.warp.alive)) return;
  auto lane = static_cast<unsigned>(__builtin_ctz(c.active));
  uint64_t id = c.slot(i.a)[lane];
  auto threads = i.b == kNoSlot ? 0 : static_cast<uint32_t>(c.slot(i.b)[lane]);
  if (id >= kBarriers || threads % kLanes != 0) {
    c.fault(ReportKind::Unsupported,
            "barrier " + std::to_string(id) + " for " + std::to_string(threads) + " threads");
  }
  Barrier& barrier = c.block.barriers[id];
  if (barrier.arrived != 0 && barrier.needed != threads) {
    c.fault(ReportKind::Deadlock, "barrier " + std::to_string(id) + " is used for " +
                                      std::to_string(barrier.needed) + " and for " +
                                      std::to_string(threads) + " threads at once");
  }
  c.arrive(barrier, threads);
  if (i.mode != kPlain) {
    barrier.count += static_cast<uint32_t>(__builtin_popcount(c.source_predicate(i) & c.active));
  }
  bool only_arrives = i.high;
  if (!only_arrives) {
    c.warp.barrier = static_cast<int>(id);
    c.warp.at_barrier = &i;
  }
  release_barriers(c.block);
}

void warp_barrier(Context& c, const Instruction& i) {
  auto mask = static_cast<uint32_t>(c.slot(i.a)[__builtin_ctz(c.active)]);
  if ((c.active & ~mask) != 0) {
    c.report(ReportKind::MemberMask,
             "lanes execute the instruction that its member mask does not name");
  }
  uint32_t here = c.active;
  for (const Path& path : c.warp.paths) {
    if (path.wait == Path::Wait::WarpBarrier && path.wait_mask == mask) here |= path.lanes;
  }
  bool complete = (mask & c.warp.alive & ~here) == 0;
  for (Path& path : c.warp.paths) {
    if (complete && path.wait == Path::Wait::WarpBarrier && path.wait_mask == mask) {
      path.wait = Path::Wait::None;
      path.pc++;
    } else if (!complete && path.lanes == c.lanes) {
      path.wait = Path::Wait::WarpBarrier;
      path.wait_mask = mask;
      c.outcome = Context::Outcome::Retry;
    }
  }
}

void decode_barrier(Statement& s, Instruction& i) {
  if (s.take("warp")) {
    if (!s.take("sync")) s.unsupported("bar.warp");
    i.handler = warp_barrier;
    i.a = s.source(Type::U32);
    return;
  }
  i.handler = block_barrier;
  if (s.take("cluster")) {
    // The cluster is the block. Who arrives waits at once or later; the wait alone keeps the order.
    bool arrives = s.take("arrive");
    if (!arrives && !s.take("wait")) s.unsupported("barrier.cluster");
    s.take_one({"acquire", "release", "relaxed"});
    s.take("aligned");
    i.a = s.names().value("0", Type::U32);
    if (arrives) i.handler = [](Context&, const Instruction&) {};
    return;
  }
  s.take("cta");
  s.take("aligned");
  if (s.take("red")) {
    int operation = s.take_one({"popc", "and", "or"});
    if (operation < 0) s.unsupported("operation");
    i.mode = static_cast<uint8_t>(kCount + operation);
    s.type();
    if (i.mode == kCount) {
      i.target = s.target();
    } else {
      i.target_predicate = s.target_predicate();
    }
    i.a = s.source(Type::U32);
    if (s.operands_left() > 1) i.b = s.source(Type::U32);
    s.source_predicate(i);
    return;
  }
  i.high = s.take("arrive");
  if (!i.high && !s.take("sync")) s.unsupported("barrier");
  i.a = s.source(Type::U32);
  if (s.operands_left() > 0) i.b = s.source(Type::U32);
  if (i.high && i.b == kNoSlot) s.unsupported("bar.arrive without a number of threads");
}

// ---- mbarriers
// -----------------------------------------------------------------------------------------

/// The mbarrier of a lane's address. Its eight bytes in memory are opaque; the state is the
/// block's.
MBarrier& mbarrier_at(Context& c, const Instruction& i, unsigned lane) {
  auto address = static_cast<uint32_t>(c.slot(i.a)[lane] + static_cast<uint64_t>(i.offset));
  c.access(Space::Shared, address, 8, lane, Access::Read);
  auto it = c.block.mbarriers.find(address);
  if (it == c.block.mbarriers.end()) {
    c.fault(ReportKind::Uninitialized, "an mbarrier that was not initialised",
            static_cast<int>(lane));
  }
  return it->second;
}

void complete_phase(MBarrier& barrier) {
  if (barrier.pending != 0 || barrier.transactions != 0) return;
  join(barrier.completed, barrier.arriving);
  barrier.arriving = {};
  barrier.pending = barrier.expected;
  barrier.phase++;
}

void arrive_at(Context& c, MBarrier& barrier, uint32_t count, unsigned lane) {
  if (count > barrier.pending) {
    c.fault(ReportKind::Deadlock, "more arrivals at an mbarrier than its phase expects",
            static_cast<int>(lane));
  }
  join(barrier.arriving, c.warp.clock);
  barrier.pending -= count;
  complete_phase(barrier);
}

void initialize(Context& c, const Instruction& i) {
  for_lanes(c.active, [&](unsigned l) {
    auto address = static_cast<uint32_t>(c.slot(i.a)[l] + static_cast<uint64_t>(i.offset));
    auto count = static_cast<uint32_t>(c.slot(i.b)[l]);
    uint8_t* memory = c.access(Space::Shared, address, 8, l, Access::Write);
    std::memset(memory, 0xbb, 8);
    if (count == 0 || count > (1u << 20) - 1)
      c.fault(ReportKind::Unsupported, "an mbarrier for " + std::to_string(count) + " arrivals");
    c.block.mbarriers[address] = MBarrier{count, count};
  });
}

void invalidate(Context& c, const Instruction& i) {
  for_lanes(c.active, [&](unsigned l) {
    mbarrier_at(c, i, l);
    c.block.mbarriers.erase(
        static_cast<uint32_t>(c.slot(i.a)[l] + static_cast<uint64_t>(i.offset)));
  });
}

enum ArrivalMode : uint8_t {
  kArrive,
  kArriveExpecting,
  kExpect,
  kCompleteTransactions,
  kArriveAndDrop
};

void arrive(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* b = c.slot(i.b);
  for_lanes(c.active, [&](unsigned l) {
    MBarrier& barrier = mbarrier_at(c, i, l);
    d[l] = barrier.phase;
    auto count = static_cast<uint32_t>(b[l]);
    switch (i.mode) {
      case kArrive:
        arrive_at(c, barrier, i.b == kNoSlot ? 1 : count, l);
        break;
      case kArriveExpecting:
        barrier.transactions += count;
        arrive_at(c, barrier, 1, l);
        break;
      case kExpect:
        barrier.transactions += count;
        break;
      case kCompleteTransactions:
        barrier.transactions -= count;
        join(barrier.arriving, c.warp.clock);
        complete_phase(barrier);
        break;
      default:
        if (barrier.expected > 0) barrier.expected--;
        arrive_at(c, barrier, 1, l);
        break;
    }
  });
  c.release();
  c.yields = true;
}

void test(Context& c, const Instruction& i) {
  uint32_t complete = 0;
  for_lanes(c.active, [&](unsigned l) {
    MBarrier& barrier = mbarrier_at(c, i, l);
    uint64_t token = c.slot(i.b)[l];
    bool by_parity = i.mode != 0;
    bool done = by_parity ? (barrier.phase & 1) != (token & 1) : barrier.phase != token;
    if (done) join(c.warp.clock, barrier.completed);
    complete |= static_cast<uint32_t>(done) << l;
  });
  c.set_predicate(i.target_predicate, complete);
  c.yields = complete != c.active;
}

/// The copies that the lane issued so far arrive, and then the lane does: the earliest moment that
/// is right.
void arrive_with_copies(Context& c, const Instruction& i) {
  std::array<uint32_t, kLanes> all;
  all.fill(UINT32_MAX);
  complete_copies(c, all);
  for_lanes(c.active, [&](unsigned l) {
    MBarrier& barrier = mbarrier_at(c, i, l);
    bool counted_before = i.mode != 0;  // .noinc
    if (!counted_before) barrier.pending++;
    arrive_at(c, barrier, 1, l);
  });
  c.release();
  c.yields = true;
}

void decode_mbarrier(Statement& s, Instruction& i) {
  int which = s.take_one({"init", "inval", "arrive", "expect_tx", "complete_tx", "arrive_drop",
                          "test_wait", "try_wait"});
  bool expects = which == 2 && s.take("expect_tx");
  s.take_one({"acquire", "release", "relaxed"});
  s.take_one({"cta", "cluster"});
  bool parity = s.take("parity");
  s.take_one({"shared", "shared::cta", "shared::cluster"});
  if (s.has_type()) s.type();  // .b64
  i.space = Space::Shared;
  switch (which) {
    case 0:
      i.handler = initialize;
      s.address(i);
      i.b = s.source(Type::U32);
      break;
    case 1:
      i.handler = invalidate;
      s.address(i);
      break;
    case 2:
    case 5:
      i.handler = arrive;
      i.mode = which == 5 ? kArriveAndDrop : expects ? kArriveExpecting : kArrive;
      if (s.peek().substr(0, 1) != "[") i.target = s.target();
      s.address(i);
      if (s.operands_left() > 0) i.b = s.source(Type::U32);
      break;
    case 3:
    case 4:
      i.handler = arrive;
      i.mode = which == 3 ? kExpect : kCompleteTransactions;
      s.address(i);
      i.b = s.source(Type::U32);
      break;
    case 6:
    case 7:
      i.handler = test;
      i.mode = parity;
      i.target_predicate = s.target_predicate();
      s.address(i);
      i.b = s.source(Type::U32);
      if (s.operands_left() > 0) i.c = s.source(Type::U32);  // a time limit
      break;
    default:
      s.unsupported("mbarrier");
  }
}

}  // namespace

void decode_copy_arrival(Statement& s, Instruction& i) {
  if (!s.take("arrive")) s.unsupported("cp.async.mbarrier");
  i.mode = s.take("noinc");
  s.take_one({"shared", "shared::cta"});
  s.type();
  i.space = Space::Shared;
  i.handler = arrive_with_copies;
  s.address(i);
}

void add_barriers(Decoders& d) {
  d.add({"bar", "barrier"}, decode_barrier);
  d.add({"mbarrier"}, decode_mbarrier);
}

}  // namespace emu
