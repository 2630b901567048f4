// Comparisons, selections and tests of numbers.
#include <cmath>

#include "operators.h"
#include "statement.h"

namespace emu {
namespace {

enum Combination : uint8_t { kAlone, kAnd, kOr, kXor };

template <class T>
uint32_t comparison_mask(Context& c, const Instruction& i) {
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  uint32_t mask = 0;
  for (unsigned l = 0; l < kLanes; l++) {
    T x = get<T>(a[l]);
    T y = get<T>(b[l]);
    if constexpr (std::is_same<T, float>::value) {
      if (i.flush) {
        x = flush_subnormal(x);
        y = flush_subnormal(y);
      }
    }
    mask |= static_cast<uint32_t>(compare(i.comparison, x, y)) << l;
  }
  return mask;
}

uint32_t combined(Context& c, const Instruction& i, uint32_t mask) {
  switch (i.mode) {
    case kAnd:
      return mask & c.source_predicate(i);
    case kOr:
      return mask | c.source_predicate(i);
    case kXor:
      return mask ^ c.source_predicate(i);
    default:
      return mask;
  }
}

template <class T>
void set_predicates(Context& c, const Instruction& i) {
  uint32_t mask = comparison_mask<T>(c, i);
  uint32_t second = combined(c, i, ~mask);
  c.set_predicate(i.target_predicate, combined(c, i, mask));
  c.set_predicate(i.target_predicate2, second);
}

template <class T>
void set_value(Context& c, const Instruction& i) {
  uint32_t mask = combined(c, i, comparison_mask<T>(c, i));
  uint64_t yes = i.source_type == Type::F32 ? put<float>(1.0f) : 0xffffffffull;
  uint64_t* d = c.slot(i.target);
  for_lanes(c.active, [&](unsigned l) { d[l] = mask >> l & 1 ? yes : 0; });
}

/// Half-precision operands are compared as the floats they are.
template <bool BF16>
uint32_t half_comparison_mask(Context& c, const Instruction& i, unsigned shift) {
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  uint32_t mask = 0;
  for (unsigned l = 0; l < kLanes; l++) {
    auto x = static_cast<uint16_t>(a[l] >> shift);
    auto y = static_cast<uint16_t>(b[l] >> shift);
    bool holds = BF16 ? compare(i.comparison, bf16_to_float(x), bf16_to_float(y))
                      : compare(i.comparison, f16_to_float(x), f16_to_float(y));
    mask |= static_cast<uint32_t>(holds) << l;
  }
  return mask;
}

template <bool BF16>
void set_predicates_half(Context& c, const Instruction& i) {
  uint32_t mask = half_comparison_mask<BF16>(c, i, 0);
  uint32_t second = combined(c, i, ~mask);
  c.set_predicate(i.target_predicate, combined(c, i, mask));
  c.set_predicate(i.target_predicate2, second);
}

template <bool BF16>
void set_predicates_half2(Context& c, const Instruction& i) {
  uint32_t low = combined(c, i, half_comparison_mask<BF16>(c, i, 0));
  uint32_t high = combined(c, i, half_comparison_mask<BF16>(c, i, 16));
  c.set_predicate(i.target_predicate, low);
  c.set_predicate(i.target_predicate2, high);
}

#define EMU_FOR_COMPARABLE(type, shape)                            \
  ((type) == Type::S16                          ? &shape<int16_t>  \
   : (type) == Type::U16 || (type) == Type::B16 ? &shape<uint16_t> \
   : (type) == Type::S32                        ? &shape<int32_t>  \
   : (type) == Type::U32 || (type) == Type::B32 ? &shape<uint32_t> \
   : (type) == Type::S64                        ? &shape<int64_t>  \
   : (type) == Type::U64 || (type) == Type::B64 ? &shape<uint64_t> \
   : (type) == Type::F32                        ? &shape<float>    \
   : (type) == Type::F64                        ? &shape<double>   \
                                                : nullptr)

void decode_comparison(Statement& s, Instruction& i) {
  // The order is that of Comparison; lo, ls, hi and hs are unsigned names of lt, le, gt and ge.
  int which = s.take_one({"eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu",
                          "geu", "num", "nan", "lo", "ls", "hi", "hs"});
  if (which < 0) s.unsupported("comparison");
  i.comparison = static_cast<Comparison>(which < 14 ? which : which - 12);
  i.mode = static_cast<uint8_t>(s.take_one({"and", "or", "xor"}) + 1);
  i.flush = s.take("ftz");
}

void comparison_operands(Statement& s, Instruction& i) {
  i.a = s.source(i.type);
  i.b = s.source(i.type);
  if (i.mode != kAlone) s.source_predicate(i);
}

void decode_setp(Statement& s, Instruction& i) {
  decode_comparison(s, i);
  i.type = s.type();
  i.handler = i.type == Type::F16      ? &set_predicates_half<false>
              : i.type == Type::BF16   ? &set_predicates_half<true>
              : i.type == Type::F16x2  ? &set_predicates_half2<false>
              : i.type == Type::BF16x2 ? &set_predicates_half2<true>
                                       : EMU_FOR_COMPARABLE(i.type, set_predicates);
  s.target_predicates(i);
  comparison_operands(s, i);
  require(s, i);
}

void decode_set(Statement& s, Instruction& i) {
  decode_comparison(s, i);
  i.source_type = s.type();
  if (i.source_type != Type::U32 && i.source_type != Type::S32 && i.source_type != Type::F32)
    s.unsupported("type");
  i.type = s.type();
  i.handler = EMU_FOR_COMPARABLE(i.type, set_value);
  i.target = s.target();
  comparison_operands(s, i);
  require(s, i);
}

void select(Context& c, const Instruction& i) {
  uint32_t first = c.source_predicate(i);
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  for_lanes(c.active, [&](unsigned l) { d[l] = first >> l & 1 ? a[l] : b[l]; });
}

void decode_selp(Statement& s, Instruction& i) {
  i.type = s.type();
  i.handler = select;
  two_operands(s, i);
  s.source_predicate(i);
}

template <class T>
void select_by_sign(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  for_lanes(c.active, [&](unsigned l) {
    T sign = get<T>(e[l]);
    if constexpr (std::is_same<T, float>::value) {
      if (i.flush) sign = flush_subnormal(sign);
    }
    d[l] = sign >= T(0) ? a[l] : b[l];
  });
}

void decode_slct(Statement& s, Instruction& i) {
  i.flush = s.take("ftz");
  i.type = s.type();
  Type sign = s.type();
  if (sign != Type::S32 && sign != Type::F32) s.unsupported("type");
  i.handler = sign == Type::S32 ? &select_by_sign<int32_t> : &select_by_sign<float>;
  two_operands(s, i);
  i.c = s.source(sign);
}

template <class T>
void test_property(Context& c, const Instruction& i) {
  const uint64_t* a = c.slot(i.a);
  uint32_t mask = 0;
  for (unsigned l = 0; l < kLanes; l++) {
    int kind = std::fpclassify(get<T>(a[l]));
    bool holds = i.mode == 0   ? kind != FP_INFINITE && kind != FP_NAN
                 : i.mode == 1 ? kind == FP_INFINITE
                 : i.mode == 2 ? kind != FP_NAN
                 : i.mode == 3 ? kind == FP_NAN
                 : i.mode == 4 ? kind == FP_NORMAL || kind == FP_ZERO
                               : kind == FP_SUBNORMAL;
    mask |= static_cast<uint32_t>(holds) << l;
  }
  c.set_predicate(i.target_predicate, mask);
}

void decode_testp(Statement& s, Instruction& i) {
  int which = s.take_one({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  if (which < 0) s.unsupported("property");
  i.mode = static_cast<uint8_t>(which);
  i.type = s.type();
  if (!is_f32_or_f64(i.type)) s.unsupported("type");
  i.handler = i.type == Type::F32 ? &test_property<float> : &test_property<double>;
  i.target_predicate = s.target_predicate();
  i.a = s.source(i.type);
}

}  // namespace

void add_comparisons(Decoders& d) {
  d.add({"setp"}, decode_setp);
  d.add({"set"}, decode_set);
  d.add({"selp"}, decode_selp);
  d.add({"slct"}, decode_slct);
  d.add({"testp"}, decode_testp);
}

}  // namespace emu
