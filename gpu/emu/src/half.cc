// Arithmetic of f16, bf16 and pairs of them. One operation is rounded once: f32 has more than twice
// their bits, so a sum or product rounded to f32 first comes out the same.
#include "operators.h"
#include "statement.h"

namespace emu {
namespace {

struct F16 {
  static float decode(uint16_t bits) { return f16_to_float(bits); }
  static uint16_t encode(float value) { return float_to_f16(value); }
  static constexpr uint16_t kExponent = 0x7c00;
};
struct BF16 {
  static float decode(uint16_t bits) { return bf16_to_float(bits); }
  static uint16_t encode(float value) { return float_to_bf16(value); }
  static constexpr uint16_t kExponent = 0x7f80;
};

template <class H>
uint16_t flushed(uint16_t bits) {
  return (bits & H::kExponent) == 0 ? bits & 0x8000 : bits;
}

template <class H>
float half_in(uint64_t slot, unsigned part, const Instruction& i) {
  auto bits = static_cast<uint16_t>(slot >> (16 * part));
  return H::decode(i.flush ? flushed<H>(bits) : bits);
}

template <class H>
uint64_t half_out(float value, unsigned part, const Instruction& i) {
  if (i.saturate) value = saturated(value);
  if (i.relu && value < 0) value = 0;
  uint16_t bits = H::encode(value);
  return static_cast<uint64_t>(i.flush ? flushed<H>(bits) : bits) << (16 * part);
}

template <class H, unsigned Parts, class Op>
void half_unary(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t result = 0;
    for (unsigned p = 0; p < Parts; p++)
      result |= half_out<H>(Op::apply(half_in<H>(a[l], p, i)), p, i);
    d[l] = result;
  });
}

template <class H, unsigned Parts, class Op>
void half_binary(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t result = 0;
    for (unsigned p = 0; p < Parts; p++) {
      result |= half_out<H>(Op::apply(half_in<H>(a[l], p, i), half_in<H>(b[l], p, i), i), p, i);
    }
    d[l] = result;
  });
}

template <class H, unsigned Parts>
void half_fma(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t result = 0;
    for (unsigned p = 0; p < Parts; p++) {
      float sum =
          fused_to_odd(half_in<H>(a[l], p, i), half_in<H>(b[l], p, i), half_in<H>(e[l], p, i));
      result |= half_out<H>(sum, p, i);
    }
    d[l] = result;
  });
}

/// neg and abs change the sign bit and nothing else.
template <uint32_t Mask, bool Flips>
void half_sign(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) {
    auto bits = static_cast<uint32_t>(a[l]);
    d[l] = Flips ? bits ^ Mask : bits & ~Mask;
  });
}

struct HalfAdd {
  static float apply(float a, float b, const Instruction&) { return a + b; }
};
struct HalfSubtract {
  static float apply(float a, float b, const Instruction&) { return a - b; }
};
struct HalfMultiply {
  static float apply(float a, float b, const Instruction&) { return a * b; }
};
struct HalfMinimum {
  static float apply(float a, float b, const Instruction& i) {
    return lesser(a, b, i.propagate_nan);
  }
};
struct HalfMaximum {
  static float apply(float a, float b, const Instruction& i) {
    return greater(a, b, i.propagate_nan);
  }
};
struct HalfExponential {
  static float apply(float a) { return std::exp2(a); }
};
struct HalfTangent {
  static float apply(float a) { return std::tanh(a); }
};

bool is_half(Type type) {
  return type == Type::F16 || type == Type::F16x2 || type == Type::BF16 || type == Type::BF16x2;
}

template <class Op>
Handler binary_of(Type type) {
  return type == Type::F16     ? half_binary<F16, 1, Op>
         : type == Type::F16x2 ? half_binary<F16, 2, Op>
         : type == Type::BF16  ? half_binary<BF16, 1, Op>
                               : half_binary<BF16, 2, Op>;
}

template <class Op>
Handler unary_of(Type type) {
  return type == Type::F16     ? half_unary<F16, 1, Op>
         : type == Type::F16x2 ? half_unary<F16, 2, Op>
         : type == Type::BF16  ? half_unary<BF16, 1, Op>
                               : half_unary<BF16, 2, Op>;
}

/// Immediates of these types are their bits.
constexpr Type kBits = Type::B32;

}  // namespace

bool decode_half_unary(Statement& s, Instruction& i) {
  if (!is_half(i.type)) return false;
  bool pair = bytes_of(i.type) == 4;
  if (s.name() == "neg" || s.name() == "abs") {
    if (i.flush) s.unsupported("modifier .ftz");
    bool flips = s.name() == "neg";
    i.handler = pair ? (flips ? half_sign<0x80008000u, true> : half_sign<0x80008000u, false>)
                     : (flips ? half_sign<0x8000u, true> : half_sign<0x8000u, false>);
  } else if (s.name() == "ex2") {
    i.handler = unary_of<HalfExponential>(i.type);
  } else if (s.name() == "tanh") {
    i.handler = unary_of<HalfTangent>(i.type);
  } else {
    s.unsupported("type");
  }
  i.target = s.target();
  i.a = s.source(kBits);
  return true;
}

bool decode_half_binary(Statement& s, Instruction& i) {
  if (!is_half(i.type)) return false;
  if (i.rounding != Rounding::NearestEven) s.unsupported("rounding");
  if (s.name() == "add") {
    i.handler = binary_of<HalfAdd>(i.type);
  } else if (s.name() == "sub") {
    i.handler = binary_of<HalfSubtract>(i.type);
  } else if (s.name() == "mul") {
    i.handler = binary_of<HalfMultiply>(i.type);
  } else if (s.name() == "min") {
    i.handler = binary_of<HalfMinimum>(i.type);
  } else if (s.name() == "max") {
    i.handler = binary_of<HalfMaximum>(i.type);
  } else {
    s.unsupported("type");
  }
  i.target = s.target();
  i.a = s.source(kBits);
  i.b = s.source(kBits);
  return true;
}

bool decode_half_ternary(Statement& s, Instruction& i) {
  if (!is_half(i.type)) return false;
  if (s.name() != "fma" || i.rounding != Rounding::NearestEven) s.unsupported("type or rounding");
  i.relu = s.take("relu");
  i.handler = i.type == Type::F16     ? half_fma<F16, 1>
              : i.type == Type::F16x2 ? half_fma<F16, 2>
              : i.type == Type::BF16  ? half_fma<BF16, 1>
                                      : half_fma<BF16, 2>;
  i.target = s.target();
  i.a = s.source(kBits);
  i.b = s.source(kBits);
  i.c = s.source(kBits);
  return true;
}

}  // namespace emu
