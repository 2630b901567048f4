// Arithmetic of integers, f32 and f64.
#include <cfenv>

#include "operators.h"
#include "statement.h"

namespace emu {
namespace {

// ---- integers
// ------------------------------------------------------------------------------------------

struct Add {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return static_cast<T>(uint64_t(a) + uint64_t(b));
  }
};
struct Subtract {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return static_cast<T>(uint64_t(a) - uint64_t(b));
  }
};
struct MultiplyLow {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return static_cast<T>(uint64_t(a) * uint64_t(b));
  }
};
struct MultiplyHigh {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return static_cast<T>((static_cast<__int128>(a) * static_cast<__int128>(b)) >> (8 * sizeof(T)));
  }
  static uint64_t apply(uint64_t a, uint64_t b, const Instruction&) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
  }
};
struct MultiplyAddLow {
  template <class T>
  static T apply(T a, T b, T c, const Instruction&) {
    return static_cast<T>(uint64_t(a) * uint64_t(b) + uint64_t(c));
  }
};
struct MultiplyAddHigh {
  template <class T>
  static T apply(T a, T b, T c, const Instruction& i) {
    return static_cast<T>(uint64_t(MultiplyHigh::apply(a, b, i)) + uint64_t(c));
  }
};
struct Divide {
  // By zero the hardware gives all ones.
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    if (b == 0) return static_cast<T>(~uint64_t{0});
    if (b == static_cast<T>(-1))
      return std::is_signed<T>::value ? static_cast<T>(0 - uint64_t(a)) : static_cast<T>(a / b);
    return static_cast<T>(a / b);
  }
};
struct Remainder {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    if (b == 0) return a;
    if (std::is_signed<T>::value && b == static_cast<T>(-1)) return 0;
    return static_cast<T>(a % b);
  }
};
struct Minimum {
  template <class T>
  static T apply(T a, T b, const Instruction& i) {
    T r = a < b ? a : b;
    return i.relu && std::is_signed<T>::value && r < T(0) ? T(0) : r;
  }
};
struct Maximum {
  template <class T>
  static T apply(T a, T b, const Instruction& i) {
    T r = a > b ? a : b;
    return i.relu && std::is_signed<T>::value && r < T(0) ? T(0) : r;
  }
};
struct Negate {
  template <class T>
  static T apply(T a, const Instruction&) {
    return static_cast<T>(0 - uint64_t(a));
  }
};
struct Absolute {
  template <class T>
  static T apply(T a, const Instruction&) {
    return a < T(0) ? static_cast<T>(0 - uint64_t(a)) : a;
  }
};
struct SumOfDifferences {
  template <class T>
  static T apply(T a, T b, T c, const Instruction&) {
    return static_cast<T>(uint64_t(c) +
                          (a < b ? uint64_t(b) - uint64_t(a) : uint64_t(a) - uint64_t(b)));
  }
};
/// 24-bit operands, which are taken from the low bits.
template <class T>
int64_t low24(T a) {
  uint32_t bits = static_cast<uint32_t>(a) << 8;
  return std::is_signed<T>::value ? int64_t{static_cast<int32_t>(bits) >> 8} : int64_t{bits >> 8};
}
struct Multiply24 {
  template <class T>
  static T apply(T a, T b, const Instruction& i) {
    int64_t product = low24(a) * low24(b);
    return static_cast<T>(i.high ? product >> 16 : product);
  }
};
struct MultiplyAdd24 {
  template <class T>
  static T apply(T a, T b, T c, const Instruction& i) {
    return static_cast<T>(uint64_t(Multiply24::apply(a, b, i)) + uint64_t(c));
  }
};
/// Sums that s32 saturates.
template <class T>
T clamped(int64_t value) {
  return static_cast<T>(value > INT32_MAX ? INT32_MAX : value < INT32_MIN ? INT32_MIN : value);
}
struct AddSaturated {
  static int32_t apply(int32_t a, int32_t b, const Instruction&) {
    return clamped<int32_t>(int64_t{a} + b);
  }
};
struct SubtractSaturated {
  static int32_t apply(int32_t a, int32_t b, const Instruction&) {
    return clamped<int32_t>(int64_t{a} - b);
  }
};

/// Two 16-bit integers in one register.
template <class T, class Op>
void packed(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  for_lanes(c.active, [&](unsigned l) {
    auto low = static_cast<uint16_t>(Op::apply(get<T>(a[l]), get<T>(b[l]), i));
    auto high = static_cast<uint16_t>(Op::apply(get<T>(a[l] >> 16), get<T>(b[l] >> 16), i));
    d[l] = static_cast<uint32_t>(high) << 16 | low;
  });
}

/// The product, and the sum with c, have twice the operands' width.
template <class T, class Wide, bool Adds>
void multiply_wide(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t product = uint64_t(Wide(get<T>(a[l]))) * uint64_t(Wide(get<T>(b[l])));
    d[l] = put<Wide>(static_cast<Wide>(Adds ? product + uint64_t(get<Wide>(e[l])) : product));
  });
}

template <bool Adds>
Handler wide_handler(Type type) {
  switch (type) {
    case Type::U16:
      return multiply_wide<uint16_t, uint32_t, Adds>;
    case Type::S16:
      return multiply_wide<int16_t, int32_t, Adds>;
    case Type::U32:
      return multiply_wide<uint32_t, uint64_t, Adds>;
    case Type::S32:
      return multiply_wide<int32_t, int64_t, Adds>;
    default:
      return nullptr;
  }
}

// Sums of long integers by parts: the carry is a predicate of its own.
enum CarryMode : uint8_t { kReadsCarry = 1, kWritesCarry = 2, kSubtracts = 4, kMultiplies = 8 };

template <class T>
void with_carry(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  uint32_t& flags = c.warp.carry;
  for_lanes(c.active, [&](unsigned l) {
    using Wide = unsigned __int128;
    T x = get<T>(a[l]);
    T y = get<T>(b[l]);
    if (i.mode & kMultiplies) {
      Wide product = static_cast<Wide>(x) * y;
      x = static_cast<T>(i.high ? product >> (8 * sizeof(T)) : product);
      y = get<T>(e[l]);
    }
    Wide carry = (i.mode & kReadsCarry) != 0 && (flags >> l & 1) != 0 ? 1 : 0;
    Wide sum =
        i.mode & kSubtracts ? static_cast<Wide>(x) - y - carry : static_cast<Wide>(x) + y + carry;
    d[l] = put<T>(static_cast<T>(sum));
    if (i.mode & kWritesCarry) {
      bool out = (sum >> (8 * sizeof(T)) & 1) != 0;
      flags = (flags & ~(1u << l)) | static_cast<uint32_t>(out) << l;
    }
  });
}

// ---- floats
// --------------------------------------------------------------------------------------------

struct RoundingGuard {
  explicit RoundingGuard(Rounding rounding) : changed(rounding != Rounding::NearestEven) {
    if (!changed) return;
    std::fesetround(rounding == Rounding::Zero   ? FE_TOWARDZERO
                    : rounding == Rounding::Down ? FE_DOWNWARD
                                                 : FE_UPWARD);
  }
  ~RoundingGuard() {
    if (changed) std::fesetround(FE_TONEAREST);
  }
  bool changed;
};

struct FloatAdd {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return a + b;
  }
};
struct FloatSubtract {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return a - b;
  }
};
struct FloatMultiply {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return a * b;
  }
};
struct FloatDivide {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return a / b;
  }
};
struct FloatMinimum {
  template <class T>
  static T apply(T a, T b, const Instruction& i) {
    return lesser(a, b, i.propagate_nan);
  }
};
struct FloatMaximum {
  template <class T>
  static T apply(T a, T b, const Instruction& i) {
    return greater(a, b, i.propagate_nan);
  }
};
struct FloatMultiplyAdd {
  template <class T>
  static T apply(T a, T b, T c, const Instruction&) {
    return std::fma(a, b, c);
  }
};
struct Reciprocal {
  template <class T>
  static T apply(T a, const Instruction&) {
    return T(1) / a;
  }
};
struct SquareRoot {
  template <class T>
  static T apply(T a, const Instruction&) {
    return std::sqrt(a);
  }
};
struct ReciprocalSquareRoot {
  template <class T>
  static T apply(T a, const Instruction&) {
    return static_cast<T>(1.0 / std::sqrt(static_cast<double>(a)));
  }
};
struct Exponential {
  static float apply(float a, const Instruction&) {
    return static_cast<float>(std::exp2(static_cast<double>(a)));
  }
};
struct Logarithm {
  static float apply(float a, const Instruction&) {
    return static_cast<float>(std::log2(static_cast<double>(a)));
  }
};
struct Sine {
  static float apply(float a, const Instruction&) {
    return static_cast<float>(std::sin(static_cast<double>(a)));
  }
};
struct Cosine {
  static float apply(float a, const Instruction&) {
    return static_cast<float>(std::cos(static_cast<double>(a)));
  }
};
struct Tangent {
  static float apply(float a, const Instruction&) {
    return static_cast<float>(std::tanh(static_cast<double>(a)));
  }
};
struct FloatNegate {
  template <class T>
  static T apply(T a, const Instruction&) {
    return -a;
  }
};
struct FloatAbsolute {
  template <class T>
  static T apply(T a, const Instruction&) {
    return std::fabs(a);
  }
};
struct CopySign {
  // The sign is that of the first operand.
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return std::copysign(b, a);
  }
};

/// f32 without rounding mode, .ftz or .sat: the common case, for which the compiler makes vector
/// code.
template <class Op>
struct Plain {
  static float apply(float a, const Instruction& i) { return canonical(Op::apply(a, i)); }
  static float apply(float a, float b, const Instruction& i) {
    return canonical(Op::apply(a, b, i));
  }
  static float apply(float a, float b, float c, const Instruction& i) {
    return canonical(Op::apply(a, b, c, i));
  }
};

/// f32 with them.
template <class Op>
struct Modified {
  static float in(float a, const Instruction& i) { return i.flush ? flush_subnormal(a) : a; }
  static float out(float a, const Instruction& i) {
    if (i.flush) a = flush_subnormal(a);
    return i.saturate ? saturated(a) : canonical(a);
  }
  static float apply(float a, const Instruction& i) {
    RoundingGuard guard(i.rounding);
    return out(Op::apply(in(a, i), i), i);
  }
  static float apply(float a, float b, const Instruction& i) {
    RoundingGuard guard(i.rounding);
    return out(Op::apply(in(a, i), in(b, i), i), i);
  }
  static float apply(float a, float b, float c, const Instruction& i) {
    RoundingGuard guard(i.rounding);
    return out(Op::apply(in(a, i), in(b, i), in(c, i), i), i);
  }
};

template <class Op>
struct Rounded {
  static double apply(double a, const Instruction& i) {
    RoundingGuard guard(i.rounding);
    return Op::apply(a, i);
  }
  static double apply(double a, double b, const Instruction& i) {
    RoundingGuard guard(i.rounding);
    return Op::apply(a, b, i);
  }
  static double apply(double a, double b, double c, const Instruction& i) {
    RoundingGuard guard(i.rounding);
    return Op::apply(a, b, c, i);
  }
};

bool is_plain(const Instruction& i) {
  return i.rounding == Rounding::NearestEven && !i.flush && !i.saturate;
}

template <class Op>
Handler float_unary(const Instruction& i) {
  if (i.type == Type::F64) return is_plain(i) ? unary<double, Op> : unary<double, Rounded<Op>>;
  return is_plain(i) ? unary<float, Plain<Op>> : unary<float, Modified<Op>>;
}
template <class Op>
Handler float_binary(const Instruction& i) {
  if (i.type == Type::F64) return is_plain(i) ? binary<double, Op> : binary<double, Rounded<Op>>;
  return is_plain(i) ? binary<float, Plain<Op>> : binary<float, Modified<Op>>;
}
template <class Op>
Handler float_ternary(const Instruction& i) {
  if (i.type == Type::F64) return is_plain(i) ? ternary<double, Op> : ternary<double, Rounded<Op>>;
  return is_plain(i) ? ternary<float, Plain<Op>> : ternary<float, Modified<Op>>;
}

// ---- decoding
// ------------------------------------------------------------------------------------------

void float_modifiers(Statement& s, Instruction& i) {
  i.rounding = s.rounding();
  i.flush = s.take("ftz");
  i.saturate = s.take("sat");
}

void three_operands(Statement& s, Instruction& i) {
  two_operands(s, i);
  i.c = s.source(i.type);
}

void decode_carry(Statement& s, Instruction& i, uint8_t mode) {
  if (s.take("cc")) mode |= kWritesCarry;
  i.mode = mode;
  i.type = s.type();
  i.handler = bytes_of(i.type) == 4   ? with_carry<uint32_t>
              : bytes_of(i.type) == 8 ? with_carry<uint64_t>
                                      : nullptr;
  two_operands(s, i);
  require(s, i);
}

template <class Integer, class Float, class Saturated, uint8_t Carry>
void decode_sum(Statement& s, Instruction& i) {
  if (s.name().size() == 4) return decode_carry(s, i, Carry | kReadsCarry);  // addc, subc
  if (s.take("cc")) return decode_carry(s, i, Carry | kWritesCarry);
  float_modifiers(s, i);
  i.type = s.type();
  if (decode_half_binary(s, i)) return;
  if (is_f32_or_f64(i.type)) {
    i.handler = float_binary<Float>(i);
  } else if (i.saturate) {
    i.handler = i.type == Type::S32 ? &binary<int32_t, Saturated> : nullptr;
  } else {
    i.handler = EMU_FOR_INTEGER(i.type, binary, Integer);
  }
  two_operands(s, i);
  require(s, i);
}

void decode_mul(Statement& s, Instruction& i) {
  if (s.name() == "mul24") {
    i.high = s.take("hi");
    s.take("lo");
    i.type = s.type();
    i.handler = i.type == Type::S32 ? &binary<int32_t, Multiply24> : &binary<uint32_t, Multiply24>;
    two_operands(s, i);
    return;
  }
  int width = s.take_one({"lo", "hi", "wide"});
  float_modifiers(s, i);
  i.type = s.type();
  if (decode_half_binary(s, i)) return;
  if (is_f32_or_f64(i.type)) {
    i.handler = float_binary<FloatMultiply>(i);
  } else if (width == 2) {
    i.handler = wide_handler<false>(i.type);
  } else if (width == 1) {
    i.handler = EMU_FOR_INTEGER(i.type, binary, MultiplyHigh);
  } else {
    i.handler = EMU_FOR_INTEGER(i.type, binary, MultiplyLow);
  }
  two_operands(s, i);
  require(s, i);
}

void decode_mad(Statement& s, Instruction& i) {
  bool reads_carry = s.name() == "madc";
  bool is24 = s.name() == "mad24";
  int width = s.take_one({"lo", "hi", "wide"});
  bool writes_carry = s.take("cc");
  float_modifiers(s, i);
  i.type = s.type();
  if (reads_carry || writes_carry) {
    i.mode = static_cast<uint8_t>(kMultiplies | (reads_carry ? kReadsCarry : 0) |
                                  (writes_carry ? kWritesCarry : 0));
    i.high = width == 1;
    bool fits = width != 2 && !(is_signed(i.type) && i.high);
    i.handler = !fits                   ? nullptr
                : bytes_of(i.type) == 4 ? &with_carry<uint32_t>
                : bytes_of(i.type) == 8 ? &with_carry<uint64_t>
                                        : nullptr;
    three_operands(s, i);
    return require(s, i);
  }
  if (decode_half_ternary(s, i)) return;
  if (is_f32_or_f64(i.type)) {
    i.handler = float_ternary<FloatMultiplyAdd>(i);
  } else if (is24) {
    i.high = width == 1;
    i.handler =
        i.type == Type::S32 ? &ternary<int32_t, MultiplyAdd24> : &ternary<uint32_t, MultiplyAdd24>;
  } else if (width == 2) {
    i.handler = wide_handler<true>(i.type);
  } else if (width == 1) {
    i.handler = EMU_FOR_INTEGER(i.type, ternary, MultiplyAddHigh);
  } else {
    i.handler = EMU_FOR_INTEGER(i.type, ternary, MultiplyAddLow);
  }
  three_operands(s, i);
  require(s, i);
}

void decode_div(Statement& s, Instruction& i) {
  // .approx and .full are computed as .rn is: closer than the ISA asks.
  s.take_one({"approx", "full"});
  float_modifiers(s, i);
  i.type = s.type();
  i.handler = is_f32_or_f64(i.type) ? float_binary<FloatDivide>(i)
                                    : EMU_FOR_INTEGER(i.type, binary, Divide);
  two_operands(s, i);
  require(s, i);
}

void decode_rem(Statement& s, Instruction& i) {
  i.type = s.type();
  i.handler = EMU_FOR_INTEGER(i.type, binary, Remainder);
  two_operands(s, i);
  require(s, i);
}

template <class Integer, class Float>
void decode_extreme(Statement& s, Instruction& i) {
  i.flush = s.take("ftz");
  i.propagate_nan = s.take("NaN");
  i.relu = s.take("relu");
  bool pair = s.take_one({"u16x2", "s16x2"}) == 1;
  if (!s.has_type()) {
    // u16x2 and s16x2 are no types of anything else.
    i.handler = pair ? &packed<int16_t, Integer> : &packed<uint16_t, Integer>;
    i.type = Type::B32;
    return two_operands(s, i);
  }
  i.type = s.type();
  if (decode_half_binary(s, i)) return;
  if (is_float(i.type) && i.relu) s.unsupported("modifier .relu");
  i.handler =
      is_f32_or_f64(i.type) ? float_binary<Float>(i) : EMU_FOR_INTEGER(i.type, binary, Integer);
  two_operands(s, i);
  require(s, i);
}

template <class Integer, class Float>
void decode_sign(Statement& s, Instruction& i) {
  i.flush = s.take("ftz");
  i.type = s.type();
  if (decode_half_unary(s, i)) return;
  if (i.type == Type::F32 && !i.flush) {
    i.handler = unary<float, Float>;  // a NaN keeps its bits but for the sign
  } else {
    i.handler =
        is_f32_or_f64(i.type) ? float_unary<Float>(i) : EMU_FOR_INTEGER(i.type, unary, Integer);
  }
  i.target = s.target();
  i.a = s.source(i.type);
  require(s, i);
}

template <class Op>
void decode_function(Statement& s, Instruction& i) {
  s.take("approx");
  float_modifiers(s, i);
  i.type = s.type();
  if (decode_half_unary(s, i)) return;
  if (!is_f32_or_f64(i.type)) s.unsupported("type");
  i.handler = float_unary<Op>(i);
  i.target = s.target();
  i.a = s.source(i.type);
}

/// Functions that f64 does not have.
template <class Op>
void decode_f32_function(Statement& s, Instruction& i) {
  s.take("approx");
  float_modifiers(s, i);
  i.type = s.type();
  if (decode_half_unary(s, i)) return;
  if (i.type != Type::F32) s.unsupported("type");
  i.handler = is_plain(i) ? unary<float, Plain<Op>> : unary<float, Modified<Op>>;
  i.target = s.target();
  i.a = s.source(i.type);
}

void decode_copysign(Statement& s, Instruction& i) {
  i.type = s.type();
  if (!is_f32_or_f64(i.type)) s.unsupported("type");
  i.handler = i.type == Type::F32 ? &binary<float, CopySign> : &binary<double, CopySign>;
  two_operands(s, i);
}

void decode_sad(Statement& s, Instruction& i) {
  i.type = s.type();
  i.handler = EMU_FOR_INTEGER(i.type, ternary, SumOfDifferences);
  three_operands(s, i);
  require(s, i);
}

}  // namespace

void add_arithmetic(Decoders& d) {
  d.add({"add", "addc"}, decode_sum<Add, FloatAdd, AddSaturated, 0>);
  d.add({"sub", "subc"}, decode_sum<Subtract, FloatSubtract, SubtractSaturated, kSubtracts>);
  d.add({"mul", "mul24"}, decode_mul);
  d.add({"mad", "madc", "mad24", "fma"}, decode_mad);
  d.add({"div"}, decode_div);
  d.add({"rem"}, decode_rem);
  d.add({"min"}, decode_extreme<Minimum, FloatMinimum>);
  d.add({"max"}, decode_extreme<Maximum, FloatMaximum>);
  d.add({"neg"}, decode_sign<Negate, FloatNegate>);
  d.add({"abs"}, decode_sign<Absolute, FloatAbsolute>);
  d.add({"sad"}, decode_sad);
  d.add({"rcp"}, decode_function<Reciprocal>);
  d.add({"sqrt"}, decode_function<SquareRoot>);
  d.add({"rsqrt"}, decode_function<ReciprocalSquareRoot>);
  d.add({"ex2"}, decode_f32_function<Exponential>);
  d.add({"lg2"}, decode_f32_function<Logarithm>);
  d.add({"sin"}, decode_f32_function<Sine>);
  d.add({"cos"}, decode_f32_function<Cosine>);
  d.add({"tanh"}, decode_f32_function<Tangent>);
  d.add({"copysign"}, decode_copysign);
}

}  // namespace emu
