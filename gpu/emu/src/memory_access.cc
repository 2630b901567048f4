// Loads, stores, atomics, asynchronous copies, matrices in shared memory, and address spaces.
#include <algorithm>
#include <array>

#include "operators.h"
#include "statement.h"

namespace emu {
namespace {

// ---- loads and stores
// ----------------------------------------------------------------------------------

/// Of what the active lanes are about to read, what others of them read too: a device fetches it once. Being
/// aligned, two reads are of the same bytes or of others.
uint64_t read_again(const Context& c, const uint64_t* addresses, uint32_t bytes) {
  std::array<uint64_t, kLanes> begins;
  uint64_t* end = begins.data();
  for_lanes(c.active, [&](unsigned l) { *end++ = addresses[l]; });
  std::sort(begins.data(), end);
  uint64_t again = 0;
  for (const uint64_t* at = begins.data(); at + 1 < end; at++) {
    if (at[0] == at[1]) again += bytes;
  }
  return again;
}

template <unsigned Bytes, bool Signed>
void load(Context& c, const Instruction& i) {
  const uint64_t* a = c.slot(i.a);
  uint32_t count = i.list.count;
  uint64_t again = i.space == Space::Global ? read_again(c, a, Bytes * count) : 0;
  for_lanes(c.active, [&](unsigned l) {
    uint64_t address = a[l] + static_cast<uint64_t>(i.offset);
    if (i.synchronizes) c.acquire_at(address);
    const uint8_t* memory = c.access(i.space, address, Bytes * count, l, Access::Read);
    if (i.synchronizes) c.release_at(address);
    for (uint32_t n = 0; n < count; n++) {
      uint64_t value = 0;
      std::memcpy(&value, memory + n * Bytes, Bytes);
      constexpr unsigned kUnused = 64 - 8 * Bytes;
      if (Signed) value = static_cast<uint64_t>(static_cast<int64_t>(value << kUnused) >> kUnused);
      c.slot(i.list, n)[l] = value;
    }
  });
  c.counters.global_bytes_read -= again;
  c.yields |= i.synchronizes;
}

template <unsigned Bytes>
void store(Context& c, const Instruction& i) {
  const uint64_t* a = c.slot(i.a);
  uint32_t count = i.list_a.count;
  for_lanes(c.active, [&](unsigned l) {
    uint64_t address = a[l] + static_cast<uint64_t>(i.offset);
    if (i.synchronizes) c.acquire_at(address);
    uint8_t* memory = c.access(i.space, address, Bytes * count, l, Access::Write);
    for (uint32_t n = 0; n < count; n++)
      std::memcpy(memory + n * Bytes, &c.slot(i.list_a, n)[l], Bytes);
    if (i.synchronizes) c.release_at(address);
  });
}

void note_ordering(Statement& s, const Instruction& i) {
  if (i.synchronizes && i.space != Space::Shared) s.names().function().uses_global_atomics = true;
}

/// An operand that says which policy the cache is to follow.
void take_cache_policy(Statement& s, bool has_policy) {
  if (has_policy) s.skip();
}

void decode_ld(Statement& s, Instruction& i) {
  i.space = s.space();
  bool has_policy = s.take("L2::cache_hint");
  s.take_hints(i);
  int vector = s.take_one({"v2", "v4", "v8"});
  i.type = s.type();
  bool has_sign = is_signed(i.type);
  switch (bytes_of(i.type)) {
    case 1:
      i.handler = has_sign ? load<1, true> : load<1, false>;
      break;
    case 2:
      i.handler = has_sign ? load<2, true> : load<2, false>;
      break;
    case 4:
      i.handler = has_sign ? load<4, true> : load<4, false>;
      break;
    case 8:
      i.handler = load<8, false>;
      break;
    default:
      s.unsupported("type");
  }
  i.list = s.targets();
  if (i.list.count != (vector < 0 ? 1u : 2u << vector)) s.unsupported("vector");
  s.address(i);
  take_cache_policy(s, has_policy);
  note_ordering(s, i);
}

void decode_st(Statement& s, Instruction& i) {
  i.space = s.space();
  bool has_policy = s.take("L2::cache_hint");
  s.take_hints(i);
  int vector = s.take_one({"v2", "v4", "v8"});
  i.type = s.type();
  switch (bytes_of(i.type)) {
    case 1:
      i.handler = store<1>;
      break;
    case 2:
      i.handler = store<2>;
      break;
    case 4:
      i.handler = store<4>;
      break;
    case 8:
      i.handler = store<8>;
      break;
    default:
      s.unsupported("type");
  }
  s.address(i);
  i.list_a = s.sources(i.type);
  if (i.list_a.count != (vector < 0 ? 1u : 2u << vector)) s.unsupported("vector");
  take_cache_policy(s, has_policy);
  note_ordering(s, i);
}

// ---- atomics
// -------------------------------------------------------------------------------------------

enum AtomicOperation : uint8_t {
  kAdd,
  kMin,
  kMax,
  kAnd,
  kOr,
  kXor,
  kExchange,
  kCompareAndSwap,
  kIncrement,
  kDecrement
};

template <class T>
T extreme(uint8_t operation, T a, T b) {
  return operation == kMin ? std::min(a, b) : std::max(a, b);
}

uint16_t half_sum(Type type, uint64_t a, uint64_t b) {
  auto x = static_cast<uint16_t>(a), y = static_cast<uint16_t>(b);
  bool bf16 = type == Type::BF16 || type == Type::BF16x2;
  return bf16 ? float_to_bf16(bf16_to_float(x) + bf16_to_float(y))
              : float_to_f16(f16_to_float(x) + f16_to_float(y));
}

/// What memory holds after an atomic on `old`.
uint64_t updated(const Instruction& i, uint64_t old, uint64_t value, uint64_t swap) {
  uint64_t mask = i.bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * i.bytes)) - 1;
  switch (i.mode) {
    case kAdd:
      switch (i.type) {
        case Type::F32:
          return put<float>(get<float>(old) + get<float>(value));
        case Type::F64:
          return put<double>(get<double>(old) + get<double>(value));
        case Type::F16:
        case Type::BF16:
          return half_sum(i.type, old, value);
        case Type::F16x2:
        case Type::BF16x2:
          return static_cast<uint64_t>(half_sum(i.type, old >> 16, value >> 16)) << 16 |
                 half_sum(i.type, old, value);
        default:
          return old + value;
      }
    case kMin:
    case kMax:
      switch (i.type) {
        case Type::S32:
          return put(extreme(i.mode, get<int32_t>(old), get<int32_t>(value)));
        case Type::S64:
          return put(extreme(i.mode, get<int64_t>(old), get<int64_t>(value)));
        default:
          return extreme(i.mode, old & mask, value & mask);
      }
    case kAnd:
      return old & value;
    case kOr:
      return old | value;
    case kXor:
      return old ^ value;
    case kExchange:
      return value;
    case kCompareAndSwap:
      return (old & mask) == (value & mask) ? swap : old;
    case kIncrement:
      return (old & mask) >= (value & mask) ? 0 : old + 1;
    case kDecrement:
      return (old & mask) == 0 || (old & mask) > (value & mask) ? value : old - 1;
  }
  return old;
}

void atomic(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t address = a[l] + static_cast<uint64_t>(i.offset);
    c.acquire_at(address);
    uint8_t* memory = c.access(i.space, address, i.bytes * i.list_a.count, l, Access::Atomic);
    for (uint32_t n = 0; n < i.list_a.count; n++) {
      uint64_t old = 0;
      std::memcpy(&old, memory + n * i.bytes, i.bytes);
      uint64_t result = updated(i, old, c.slot(i.list_a, n)[l], c.slot(i.c)[l]);
      std::memcpy(memory + n * i.bytes, &result, i.bytes);
      if (n == 0) d[l] = old;
    }
    c.release_at(address);
  });
  c.yields = true;
}

void decode_atomic(Statement& s, Instruction& i) {
  bool returns = s.name() == "atom";
  i.space = s.space();
  bool has_policy = s.take("L2::cache_hint");
  s.take_hints(i);
  s.take("noftz");
  int operation =
      s.take_one({"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"});
  if (operation < 0) s.unsupported("operation");
  i.mode = static_cast<uint8_t>(operation);
  int vector = s.take_one({"v2", "v4", "v8"});
  i.type = s.type();
  i.bytes = static_cast<uint8_t>(bytes_of(i.type));
  bool sums_only = is_float(i.type);
  if ((sums_only && i.mode != kAdd) || i.bytes > 8 || i.bytes < 2 || (returns && vector >= 0))
    s.unsupported("type");
  if (returns) i.target = s.target();
  s.address(i);
  i.list_a = s.sources(i.type);
  if (i.list_a.count != (vector < 0 ? 1u : 2u << vector)) s.unsupported("vector");
  if (i.mode == kCompareAndSwap) i.c = s.source(i.type);
  take_cache_policy(s, has_policy);
  i.handler = atomic;
  if (i.space != Space::Shared) s.names().function().uses_global_atomics = true;
}

// ---- asynchronous copies
// -------------------------------------------------------------------------------

void copy_async(Context& c, const Instruction& i) {
  const uint64_t* to = c.slot(i.a);
  const uint64_t* from = c.slot(i.b);
  for_lanes(c.active, [&](unsigned l) {
    uint32_t target =
        c.shared_offset(static_cast<uint32_t>(to[l] + static_cast<uint64_t>(i.offset)), i.bytes, l);
    uint64_t source = from[l] + static_cast<uint64_t>(i.offset_b);
    uint32_t copied =
        i.mode == 0 ? i.bytes : std::min<uint32_t>(static_cast<uint32_t>(c.slot(i.c)[l]), i.bytes);
    if (copied > 0) {
      if (source % i.bytes != 0)
        c.fault(ReportKind::Misaligned, "source of cp.async", static_cast<int>(l));
      for (uint32_t n = 0; n < copied;) {
        // What is copied need not be a power of two.
        uint32_t part = copied - n >= 8 ? 8 : copied - n >= 4 ? 4 : 1;
        if (n == 0 && copied == i.bytes) part = copied;
        c.access(Space::Global, source + n, part, l, Access::Read);
        n += part;
      }
    }
    c.touch_shared(target, i.bytes, l, Access::Write);
    std::fill_n(c.block.shared_state.begin() + target, i.bytes, ByteState::InFlight);
    c.warp.copies.push_back({target, source, i.bytes, static_cast<uint8_t>(copied),
                             static_cast<uint8_t>(l), c.warp.copy_group[l]});
  });
}

void commit_copies(Context& c, const Instruction&) {
  for_lanes(c.active, [&](unsigned l) { c.warp.copy_group[l]++; });
}

void wait_for_copies(Context& c, const Instruction& i) {
  std::array<uint32_t, kLanes> limit{};
  for (unsigned l = 0; l < kLanes; l++) {
    uint32_t group = c.warp.copy_group[l];
    auto allowed = static_cast<uint32_t>(i.offset);
    limit[l] = i.mode == 1 ? group + 1 : group > allowed ? group - allowed : 0;
  }
  complete_copies(c, limit);
}

void decode_cp(Statement& s, Instruction& i) {
  if (!s.take("async")) s.unsupported("cp");
  if (s.take("commit_group")) {
    i.handler = commit_copies;
    return;
  }
  if (s.take("wait_group")) {
    i.handler = wait_for_copies;
    i.offset = s.number();
    return;
  }
  if (s.take("wait_all")) {
    i.handler = wait_for_copies;
    i.mode = 1;
    return;
  }
  if (s.take("mbarrier")) return decode_copy_arrival(s, i);
  if (s.take("bulk")) s.unsupported("bulk copies (TMA)");
  if (s.take_one({"shared", "shared::cta"}) < 0 || !s.take("global")) s.unsupported("direction");
  bool has_policy = s.take("L2::cache_hint");
  s.take_hints(i);
  i.handler = copy_async;
  i.space = Space::Shared;
  s.address(i);
  s.address(i, i.b, i.offset_b);
  i.bytes = static_cast<uint8_t>(s.number());
  if (i.bytes != 4 && i.bytes != 8 && i.bytes != 16) s.unsupported("size");
  if (s.operands_left() > (has_policy ? 1u : 0u)) {
    if (s.names().is_predicate(s.peek())) s.unsupported("ignore-src");
    i.c = s.source(Type::U32);
    i.mode = 1;
  }
  take_cache_policy(s, has_policy);
}

// ---- matrices in shared memory
// -------------------------------------------------------------------------

/// Lane l of matrix n holds elements 2·(l mod 4) and the next of row l / 4; transposed: of column l
/// / 4. Rows of 16 bytes are addressed by lanes 8·n … 8·n + 7.
void load_matrices(Context& c, const Instruction& i) {
  if (!c.whole_warp()) return;
  const uint64_t* a = c.slot(i.a);
  const uint8_t* rows[kLanes];
  uint32_t count = i.list.count;
  for (unsigned l = 0; l < 8 * count; l++) {
    rows[l] = c.access(Space::Shared, a[l] + static_cast<uint64_t>(i.offset), 16, l, Access::Read);
  }
  for (uint32_t n = 0; n < count; n++) {
    uint64_t* d = c.slot(i.list, n);
    for (unsigned l = 0; l < kLanes; l++) {
      unsigned group = l / 4, pair = 2 * (l % 4);
      uint16_t low, high;
      std::memcpy(&low,
                  i.transpose ? rows[8 * n + pair] + 2 * group : rows[8 * n + group] + 2 * pair, 2);
      std::memcpy(
          &high,
          i.transpose ? rows[8 * n + pair + 1] + 2 * group : rows[8 * n + group] + 2 * pair + 2, 2);
      d[l] = static_cast<uint32_t>(high) << 16 | low;
    }
  }
}

void store_matrices(Context& c, const Instruction& i) {
  if (!c.whole_warp()) return;
  const uint64_t* a = c.slot(i.a);
  uint8_t* rows[kLanes];
  uint32_t count = i.list_a.count;
  for (unsigned l = 0; l < 8 * count; l++) {
    rows[l] = c.access(Space::Shared, a[l] + static_cast<uint64_t>(i.offset), 16, l, Access::Write);
  }
  for (uint32_t n = 0; n < count; n++) {
    const uint64_t* value = c.slot(i.list_a, n);
    for (unsigned l = 0; l < kLanes; l++) {
      unsigned group = l / 4, pair = 2 * (l % 4);
      auto low = static_cast<uint16_t>(value[l]), high = static_cast<uint16_t>(value[l] >> 16);
      std::memcpy(i.transpose ? rows[8 * n + pair] + 2 * group : rows[8 * n + group] + 2 * pair,
                  &low, 2);
      std::memcpy(
          i.transpose ? rows[8 * n + pair + 1] + 2 * group : rows[8 * n + group] + 2 * pair + 2,
          &high, 2);
    }
  }
}

void decode_matrices(Statement& s, Instruction& i) {
  bool loads = s.name() == "ldmatrix";
  s.take("sync");
  s.take("aligned");
  if (!s.take("m8n8")) s.unsupported("shape");
  int count = s.take_one({"x1", "x2", "x4"});
  i.transpose = s.take("trans");
  i.space = s.space();
  if (s.type() != Type::B16 || count < 0) s.unsupported("type");
  i.handler = loads ? load_matrices : store_matrices;
  if (loads) i.list = s.targets();
  s.address(i);
  if (!loads) i.list_a = s.sources(Type::B32);
  if ((loads ? i.list : i.list_a).count != 1u << count) s.unsupported("vector");
  if (i.space == Space::Generic) s.unsupported("generic address");
}

// ---- address spaces
// ------------------------------------------------------------------------------------

uint64_t window_of(Space space) {
  return space == Space::Shared  ? kSharedWindow
         : space == Space::Local ? kLocalWindow
         : space == Space::Param ? kParamWindow
                                 : 0;
}

void convert_address(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  uint64_t window = window_of(i.space);
  for_lanes(c.active, [&](unsigned l) { d[l] = i.mode != 0 ? a[l] - window : a[l] + window; });
}

void is_in_space(Context& c, const Instruction& i) {
  const uint64_t* a = c.slot(i.a);
  uint32_t mask = 0;
  for (unsigned l = 0; l < kLanes; l++)
    mask |= static_cast<uint32_t>((a[l] & kWindowMask) == window_of(i.space)) << l;
  c.set_predicate(i.target_predicate, mask);
}

/// An address in the shared memory of a block of the cluster: there is only the own block.
void map_address(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* rank = c.slot(i.b);
  for_lanes(c.active, [&](unsigned l) {
    if (static_cast<uint32_t>(rank[l]) != 0) {
      c.fault(ReportKind::Unsupported, "shared memory of another block of a cluster",
              static_cast<int>(l));
    }
    d[l] = a[l];
  });
}

void decode_cvta(Statement& s, Instruction& i) {
  i.mode = s.take("to");
  i.space = s.space();
  i.type = s.type();
  if (bytes_of(i.type) != 8) s.unsupported("32-bit addresses");
  i.handler = convert_address;
  i.target = s.target();
  i.a = s.source(i.type);
}

void decode_isspacep(Statement& s, Instruction& i) {
  i.space = s.space();
  i.handler = is_in_space;
  i.target_predicate = s.target_predicate();
  i.a = s.source(Type::U64);
}

void decode_mapa(Statement& s, Instruction& i) {
  i.space = s.space();
  i.type = s.type();
  i.handler = map_address;
  i.target = s.target();
  i.a = s.source(i.type);
  i.b = s.source(Type::U32);
}

}  // namespace

void add_memory(Decoders& d) {
  d.add({"ld", "ldu"}, decode_ld);
  d.add({"st"}, decode_st);
  d.add({"atom", "red"}, decode_atomic);
  d.add({"cp"}, decode_cp);
  d.add({"ldmatrix", "stmatrix"}, decode_matrices);
  d.add({"cvta"}, decode_cvta);
  d.add({"isspacep"}, decode_isspacep);
  d.add({"mapa"}, decode_mapa);
}

}  // namespace emu
