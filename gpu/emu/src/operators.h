// Shapes that many handlers share: what they do per lane is a function object.
#pragma once

#include <cmath>

#include "floats.h"
#include "machine.h"

namespace emu {

template <class T, class Op>
void unary(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) { d[l] = put<T>(Op::apply(get<T>(a[l]), i)); });
}

template <class T, class Op>
void binary(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  for_lanes(c.active, [&](unsigned l) { d[l] = put<T>(Op::apply(get<T>(a[l]), get<T>(b[l]), i)); });
}

template <class T, class Op>
void ternary(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  for_lanes(c.active, [&](unsigned l) {
    d[l] = put<T>(Op::apply(get<T>(a[l]), get<T>(b[l]), get<T>(e[l]), i));
  });
}

/// The handler for an integer type of 16, 32 or 64 bits.
#define EMU_FOR_INTEGER(type, shape, Op)                               \
  ((type) == Type::S16                          ? &shape<int16_t, Op>  \
   : (type) == Type::U16 || (type) == Type::B16 ? &shape<uint16_t, Op> \
   : (type) == Type::S32                        ? &shape<int32_t, Op>  \
   : (type) == Type::U32 || (type) == Type::B32 ? &shape<uint32_t, Op> \
   : (type) == Type::S64                        ? &shape<int64_t, Op>  \
   : (type) == Type::U64 || (type) == Type::B64 ? &shape<uint64_t, Op> \
                                                : nullptr)

/// Results that are NaN have one form in f32.
inline float canonical(float value) {
  return value == value ? value : bit_cast<float>(0x7fffffffu);
}

inline float saturated(float value) {
  return value != value ? 0.0f : value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;
}

/// PTX orders -0 below +0 and prefers a number to NaN, unless .NaN is given.
template <class T>
T lesser(T a, T b, bool propagate_nan) {
  if (a != a || b != b) return propagate_nan ? static_cast<T>(NAN) : a != a ? b : a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}

template <class T>
T greater(T a, T b, bool propagate_nan) {
  if (a != a || b != b) return propagate_nan ? static_cast<T>(NAN) : a != a ? b : a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}

template <class T>
bool compare(Comparison how, T a, T b) {
  bool unordered = a != a || b != b;
  switch (how) {
    case Comparison::Eq:
      return a == b;
    case Comparison::Ne:
      return a != b && !unordered;
    case Comparison::Lt:
      return a < b;
    case Comparison::Le:
      return a <= b;
    case Comparison::Gt:
      return a > b;
    case Comparison::Ge:
      return a >= b;
    case Comparison::Equ:
      return a == b || unordered;
    case Comparison::Neu:
      return a != b;
    case Comparison::Ltu:
      return a < b || unordered;
    case Comparison::Leu:
      return a <= b || unordered;
    case Comparison::Gtu:
      return a > b || unordered;
    case Comparison::Geu:
      return a >= b || unordered;
    case Comparison::Num:
      return !unordered;
    case Comparison::Nan:
      return unordered;
  }
  return false;
}

class Statement;

/// Decode an instruction of type f16, f16x2, bf16 or bf16x2, whose type and modifiers were taken.
/// False if it is of another type.
bool decode_half_unary(Statement& s, Instruction& i);
bool decode_half_binary(Statement& s, Instruction& i);
bool decode_half_ternary(Statement& s, Instruction& i);

/// cp.async.mbarrier.arrive, whose first two words were taken.
void decode_copy_arrival(Statement& s, Instruction& i);

}  // namespace emu
