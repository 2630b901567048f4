// Branches, ends, traps, and the few functions a kernel may call.
#include <cstdio>

#include "machine.h"
#include "statement.h"

namespace emu {
namespace {

void branch(Context& c, const Instruction& i) {
  for (Path& path : c.warp.paths) {
    if (path.lanes != c.lanes) continue;
    c.outcome = Context::Outcome::Moved;
    uint32_t stay = c.lanes & ~c.active;
    uint32_t next = path.pc + 1;
    path.pc = static_cast<uint32_t>(i.offset);
    path.lanes = c.active;
    if (stay != 0) c.warp.paths.push_back(Path{next, stay});
    return;
  }
}

void leave(Context& c, const Instruction&) {
  auto& paths = c.warp.paths;
  for (size_t n = 0; n < paths.size(); n++) {
    if (paths[n].lanes != c.lanes) continue;
    c.outcome = Context::Outcome::Moved;
    c.warp.alive &= ~c.active;
    paths[n].lanes &= ~c.active;
    paths[n].pc++;
    if (paths[n].lanes == 0) paths.erase(paths.begin() + static_cast<std::ptrdiff_t>(n));
    break;
  }
  // Nobody waits for lanes that are gone.
  for (Path& path : paths) path.wait = Path::Wait::None;
}

void trap(Context& c, const Instruction&) {
  c.fault(ReportKind::Trap, "the kernel stops itself", __builtin_ctz(c.active));
}

void nothing(Context&, const Instruction&) {}

void wait_a_while(Context& c, const Instruction&) { c.yields = true; }

/// Text in device memory, up to its zero.
std::string text_at(Context& c, uint64_t address, unsigned lane) {
  std::string text;
  while (text.size() < 4096) {
    char next =
        static_cast<char>(*c.access(Space::Generic, address + text.size(), 1, lane, Access::Read));
    if (next == 0) break;
    text += next;
  }
  return text;
}

uint64_t argument(Context& c, uint32_t slot, unsigned lane) {
  uint64_t value;
  std::memcpy(&value, c.access(Space::Local, c.slot(slot)[lane], 8, lane, Access::Read), 8);
  return value;
}

void assertion_failed(Context& c, const Instruction& i) {
  unsigned lane = static_cast<unsigned>(__builtin_ctz(c.active));
  c.fault(ReportKind::Trap,
          "assertion failed: " + text_at(c, argument(c, i.a, lane), lane) + " in " +
              text_at(c, argument(c, i.b, lane), lane),
          static_cast<int>(lane));
}

void decode_bra(Statement& s, Instruction& i) {
  s.take("uni");
  i.branch = true;
  i.handler = branch;
  i.offset = s.label();
}

void decode_leave(Statement& s, Instruction& i) {
  s.take("uni");
  i.leaves = true;
  i.handler = leave;
}

void decode_trap(Statement&, Instruction& i) {
  i.leaves = true;
  i.handler = trap;
}

/// call (result), name, (arguments): only __assertfail is known.
void decode_call(Statement& s, Instruction& i) {
  s.take("uni");
  if (s.peek().substr(0, 1) == "(") s.skip();
  if (s.peek() != "__assertfail") s.unsupported("call of " + std::string(s.peek()));
  s.skip();
  std::string_view list = s.peek();
  s.skip();
  size_t comma = list.find(',');
  size_t second = list.find(',', comma + 1);
  auto name = [&](size_t begin, size_t end) {
    std::string_view part = list.substr(begin, end - begin);
    part.remove_prefix(part.find_first_not_of(" \t\n("));
    return part.substr(0, part.find_first_of(" \t\n)"));
  };
  i.a = s.names().value(name(0, comma), Type::B64);
  i.b = s.names().value(name(comma + 1, second), Type::B64);
  i.handler = assertion_failed;
}

void decode_nanosleep(Statement& s, Instruction& i) {
  s.type();
  i.a = s.source(Type::U32);
  i.handler = wait_a_while;
}

/// Memory is in order here, so a fence has nothing to do.
void decode_fence(Statement& s, Instruction& i) {
  while (s.take_one({"sc",
                     "acq_rel",
                     "acquire",
                     "release",
                     "proxy",
                     "async",
                     "async::generic",
                     "alias",
                     "mbarrier_init",
                     "global",
                     "shared::cta",
                     "shared::cluster",
                     "cta",
                     "cluster",
                     "gpu",
                     "sys",
                     "gl",
                     "tensormap::generic",
                     "sync_restrict::shared::cta",
                     "sync_restrict::shared::cluster"}) >= 0) {
  }
  i.handler = nothing;
}

/// Hints about caches.
void decode_prefetch(Statement& s, Instruction& i) {
  i.space = s.space();
  s.take_one({"L1", "L2", "tensormap"});
  s.take_hints(i);
  s.address(i);
  if (s.operands_left() > 0) s.number();
  i.handler = nothing;
}

void decode_hint(Statement& s, Instruction& i) {
  s.take_one({"inc", "dec", "wait", "launch_dependents"});
  s.take("sync");
  s.take("aligned");
  if (s.has_type()) s.type();
  while (s.operands_left() > 0) s.skip();
  i.handler = nothing;
}

}  // namespace

void add_control(Decoders& d) {
  d.add({"bra"}, decode_bra);
  d.add({"ret", "exit"}, decode_leave);
  d.add({"trap", "brkpt"}, decode_trap);
  d.add({"call"}, decode_call);
  d.add({"nanosleep"}, decode_nanosleep);
  d.add({"fence", "membar"}, decode_fence);
  d.add({"prefetch", "prefetchu", "applypriority", "discard"}, decode_prefetch);
  d.add({"setmaxnreg", "pmevent", "griddepcontrol"}, decode_hint);
}

}  // namespace emu
