// What the lanes of a warp do together: shuffles, votes, matches, reductions, elections.
#include <algorithm>

#include "machine.h"
#include "statement.h"

namespace emu {
namespace {

/// The member mask is one number for all lanes that execute the instruction.
uint32_t member_mask(Context& c, const Instruction& i) {
  return static_cast<uint32_t>(c.slot(i.d)[__builtin_ctz(c.active)]);
}

enum ShuffleMode : uint8_t { kUp, kDown, kButterfly, kIndex };

void shuffle(Context& c, const Instruction& i) {
  if (!c.converge(member_mask(c, i))) return;
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  uint32_t results[kLanes];
  uint32_t in_range = 0;
  for_lanes(c.active, [&](unsigned l) {
    int lane = static_cast<int>(l);
    int by = static_cast<int>(b[l] & 31);
    int clamp = static_cast<int>(e[l] & 31);
    int segment = static_cast<int>(e[l] >> 8 & 31);
    int last = (lane & segment) | (clamp & ~segment);
    int from = i.mode == kUp          ? lane - by
               : i.mode == kDown      ? lane + by
               : i.mode == kButterfly ? lane ^ by
                                      : (lane & segment) | (by & ~segment);
    bool good = i.mode == kUp ? from >= last : from <= last;
    if (!good) from = lane;
    if ((c.active >> from & 1) == 0) {
      c.report(ReportKind::MemberMask,
               "shfl from lane " + std::to_string(from) + ", which does not take part",
               static_cast<int>(l));
    }
    results[l] = static_cast<uint32_t>(a[from]);
    in_range |= static_cast<uint32_t>(good) << l;
  });
  for_lanes(c.active, [&](unsigned l) { d[l] = results[l]; });
  c.set_predicate(i.target_predicate, in_range);
}

enum VoteMode : uint8_t { kAll, kAny, kUniform, kBallot };

void vote(Context& c, const Instruction& i) {
  if (!c.converge(member_mask(c, i))) return;
  uint32_t votes = c.source_predicate(i) & c.active;
  if (i.mode == kBallot) {
    uint64_t* d = c.slot(i.target);
    for_lanes(c.active, [&](unsigned l) { d[l] = votes; });
    return;
  }
  bool holds = i.mode == kAll   ? votes == c.active
               : i.mode == kAny ? votes != 0
                                : votes == 0 || votes == c.active;
  c.set_predicate(i.target_predicate, holds ? kAllLanes : 0);
}

template <class T>
void match(Context& c, const Instruction& i) {
  if (!c.converge(member_mask(c, i))) return;
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  uint32_t same[kLanes];
  for_lanes(c.active, [&](unsigned l) {
    same[l] = 0;
    for_lanes(c.active, [&](unsigned other) {
      same[l] |= static_cast<uint32_t>(get<T>(a[l]) == get<T>(a[other])) << other;
    });
  });
  bool all = same[__builtin_ctz(c.active)] == c.active;
  bool wants_all = i.mode != 0;
  for_lanes(c.active, [&](unsigned l) { d[l] = !wants_all ? same[l] : all ? c.active : 0; });
  if (wants_all) c.set_predicate(i.target_predicate, all ? kAllLanes : 0);
}

enum ReductionMode : uint8_t { kAdd, kMin, kMax, kAnd, kOr, kXor };

template <class T>
void reduce(Context& c, const Instruction& i) {
  if (!c.converge(member_mask(c, i))) return;
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  T result = get<T>(a[__builtin_ctz(c.active)]);
  for_lanes(c.active & (c.active - 1), [&](unsigned l) {
    T value = get<T>(a[l]);
    switch (i.mode) {
      case kAdd:
        result = static_cast<T>(static_cast<uint32_t>(result) + static_cast<uint32_t>(value));
        break;
      case kMin:
        result = std::min(result, value);
        break;
      case kMax:
        result = std::max(result, value);
        break;
      case kAnd:
        result &= value;
        break;
      case kOr:
        result |= value;
        break;
      default:
        result ^= value;
        break;
    }
  });
  for_lanes(c.active, [&](unsigned l) { d[l] = put<T>(result); });
}

/// Any lane may be elected; here it is the lowest.
void elect(Context& c, const Instruction& i) {
  if (!c.converge(member_mask(c, i))) return;
  unsigned leader = static_cast<unsigned>(__builtin_ctz(c.active));
  uint64_t* d = c.slot(i.target);
  for_lanes(c.active, [&](unsigned l) { d[l] = leader; });
  c.set_predicate(i.target_predicate, 1u << leader);
}

void active_lanes(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  for_lanes(c.active, [&](unsigned l) { d[l] = c.active; });
}

/// Transposes an 8 × 8 matrix of 16-bit elements that lies over the warp as mma's fragments do.
void transpose_matrix(Context& c, const Instruction& i) {
  if (!c.whole_warp()) return;
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  uint16_t matrix[8][8];
  for (unsigned l = 0; l < kLanes; l++) {
    matrix[l / 4][2 * (l % 4)] = static_cast<uint16_t>(a[l]);
    matrix[l / 4][2 * (l % 4) + 1] = static_cast<uint16_t>(a[l] >> 16);
  }
  for (unsigned l = 0; l < kLanes; l++) {
    d[l] = static_cast<uint32_t>(matrix[2 * (l % 4) + 1][l / 4]) << 16 | matrix[2 * (l % 4)][l / 4];
  }
}

void require_sync(Statement& s) {
  if (!s.take("sync")) s.unsupported(s.name() + " without .sync");
}

void decode_shfl(Statement& s, Instruction& i) {
  require_sync(s);
  int mode = s.take_one({"up", "down", "bfly", "idx"});
  if (mode < 0 || s.type() != Type::B32) s.unsupported("mode or type");
  i.mode = static_cast<uint8_t>(mode);
  i.handler = shuffle;
  s.target_and_predicate(i);
  i.a = s.source(Type::B32);
  i.b = s.source(Type::U32);
  i.c = s.source(Type::U32);
  i.d = s.source(Type::U32);
}

void decode_vote(Statement& s, Instruction& i) {
  require_sync(s);
  int mode = s.take_one({"all", "any", "uni", "ballot"});
  if (mode < 0) s.unsupported("mode");
  i.mode = static_cast<uint8_t>(mode);
  s.type();
  i.handler = vote;
  if (i.mode == kBallot) {
    i.target = s.target();
  } else {
    i.target_predicate = s.target_predicate();
  }
  s.source_predicate(i);
  i.d = s.source(Type::U32);
}

void decode_match(Statement& s, Instruction& i) {
  int mode = s.take_one({"any", "all"});
  require_sync(s);
  i.type = s.type();
  i.mode = mode == 1;
  i.handler = bytes_of(i.type) == 4 ? match<uint32_t> : match<uint64_t>;
  s.target_and_predicate(i);
  i.a = s.source(i.type);
  i.d = s.source(Type::U32);
}

void decode_redux(Statement& s, Instruction& i) {
  require_sync(s);
  int mode = s.take_one({"add", "min", "max", "and", "or", "xor"});
  i.type = s.type();
  if (mode < 0 || is_float(i.type)) s.unsupported("operation or type");
  i.mode = static_cast<uint8_t>(mode);
  i.handler = i.type == Type::S32 ? reduce<int32_t> : reduce<uint32_t>;
  i.target = s.target();
  i.a = s.source(i.type);
  i.d = s.source(Type::U32);
}

void decode_elect(Statement& s, Instruction& i) {
  require_sync(s);
  i.handler = elect;
  s.target_and_predicate(i);
  i.d = s.source(Type::U32);
}

void decode_activemask(Statement& s, Instruction& i) {
  s.type();
  i.handler = active_lanes;
  i.target = s.target();
}

void decode_movmatrix(Statement& s, Instruction& i) {
  require_sync(s);
  s.take("aligned");
  if (!s.take("m8n8") || !s.take("trans") || s.type() != Type::B16) s.unsupported("shape or type");
  i.handler = transpose_matrix;
  i.target = s.target();
  i.a = s.source(Type::B32);
}

}  // namespace

void add_warp_collectives(Decoders& d) {
  d.add({"shfl"}, decode_shfl);
  d.add({"vote"}, decode_vote);
  d.add({"match"}, decode_match);
  d.add({"redux"}, decode_redux);
  d.add({"elect"}, decode_elect);
  d.add({"activemask"}, decode_activemask);
  d.add({"movmatrix"}, decode_movmatrix);
}

}  // namespace emu
