// cvt: between integers, floats and packed pairs.
#include <algorithm>

#include "operators.h"
#include "statement.h"

namespace emu {
namespace {

enum IntegerRounding : uint8_t { kNone, kNearestInteger, kTowardZero, kDownward, kUpward };

const Format& format_of(Type type) {
  switch (type) {
    case Type::F16:
    case Type::F16x2:
      return kF16;
    case Type::BF16:
    case Type::BF16x2:
      return kBF16;
    case Type::TF32:
      return kTF32;
    case Type::E4M3x2:
      return kE4M3;
    case Type::E5M2x2:
      return kE5M2;
    case Type::F64:
      return kF64;
    default:
      return kF32;
  }
}

long double float_value(uint64_t slot, Type type) {
  switch (type) {
    case Type::F16:
      return f16_to_float(get<uint16_t>(slot));
    case Type::BF16:
      return bf16_to_float(get<uint16_t>(slot));
    case Type::F64:
      return get<double>(slot);
    default:
      return get<float>(slot);
  }
}

__int128 integer_value(uint64_t slot, Type type) {
  unsigned unused = 64 - 8 * bytes_of(type);
  if (is_signed(type)) return static_cast<int64_t>(slot << unused) >> unused;
  return (slot << unused) >> unused;
}

__int128 lowest(Type type) {
  return is_signed(type) ? -(static_cast<__int128>(1) << (8 * bytes_of(type) - 1)) : 0;
}
__int128 highest(Type type) {
  return (static_cast<__int128>(1) << (8 * bytes_of(type) - (is_signed(type) ? 1 : 0))) - 1;
}

long double to_integer(long double value, uint8_t mode) {
  switch (mode) {
    case kNearestInteger: {
      long double below = std::floor(value);
      long double rest = value - below;
      bool up = rest > 0.5L || (rest == 0.5L && std::fmod(below, 2.0L) != 0);
      return std::copysign(up ? below + 1 : below, value);
    }
    case kDownward:
      return std::floor(value);
    case kUpward:
      return std::ceil(value);
    case kTowardZero:
      return std::trunc(value);
    default:
      return value;
  }
}

uint64_t encode_float(long double value, const Instruction& i) {
  if (i.relu && value < 0) value = 0;
  const Format& format = format_of(i.type);
  if (i.type == Type::F32 && i.flush && std::fabs(value) < 0x1p-126L)
    value = std::copysign(0.0L, value);
  uint64_t bits = encode(value, format, i.rounding, i.saturate);
  // tf32 lies in the upper bits of an f32.
  return i.type == Type::TF32 ? bits << 13 : bits;
}

/// Any scalar to any other.
void convert(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  bool clamps = i.high;  // .sat
  for_lanes(c.active, [&](unsigned l) {
    if (!is_float(i.source_type)) {
      __int128 value = integer_value(a[l], i.source_type);
      if (is_float(i.type)) {
        if (clamps) value = std::min<__int128>(std::max<__int128>(value, 0), 1);
        d[l] = encode_float(static_cast<long double>(value), i);
        return;
      }
      if (clamps) value = std::min(std::max(value, lowest(i.type)), highest(i.type));
      d[l] = static_cast<uint64_t>(integer_value(static_cast<uint64_t>(value), i.type));
      return;
    }
    long double value = float_value(a[l], i.source_type);
    if (i.flush && i.source_type == Type::F32 && std::fabs(value) < 0x1p-126L)
      value = std::copysign(0.0L, value);
    if (is_float(i.type)) {
      value = to_integer(value, i.mode);
      if (clamps) value = std::isnan(value) ? 0.0L : std::min(std::max(value, 0.0L), 1.0L);
      d[l] = encode_float(value, i);
      return;
    }
    if (std::isnan(value)) {
      bool wide = i.source_type == Type::F64 || bytes_of(i.type) == 8;
      d[l] = wide ? uint64_t{1} << (8 * bytes_of(i.type) - 1) : 0;
      return;
    }
    value = to_integer(value, i.mode);
    __int128 low = lowest(i.type), high = highest(i.type);
    __int128 result = value <= static_cast<long double>(low)    ? low
                      : value >= static_cast<long double>(high) ? high
                                                                : static_cast<__int128>(value);
    d[l] = static_cast<uint64_t>(result);
  });
}

/// Of the same or another width, without .sat.
template <class From>
void convert_integer(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  unsigned unused = 64 - 8 * bytes_of(i.type);
  bool has_sign = is_signed(i.type);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t bits = put<From>(get<From>(a[l])) << unused;
    d[l] = has_sign ? static_cast<uint64_t>(static_cast<int64_t>(bits) >> unused) : bits >> unused;
  });
}

void f32_to_bf16(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) { d[l] = float_to_bf16(get<float>(a[l])); });
}

void f16_to_f32(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active,
            [&](unsigned l) { d[l] = put<float>(canonical(f16_to_float(get<uint16_t>(a[l])))); });
}

void bf16_to_f32(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) { d[l] = (a[l] & 0xffff) << 16; });
}

/// Two f32 to a packed pair: the first operand becomes the upper half.
void f32_to_pair(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  unsigned width = 4 * bytes_of(i.type);
  bool fast =
      i.type == Type::BF16x2 && i.rounding == Rounding::NearestEven && !i.relu && !i.saturate;
  for_lanes(c.active, [&](unsigned l) {
    uint64_t high, low;
    if (fast) {
      high = float_to_bf16(get<float>(a[l]));
      low = float_to_bf16(get<float>(b[l]));
    } else {
      high = encode_float(static_cast<long double>(get<float>(a[l])), i);
      low = encode_float(static_cast<long double>(get<float>(b[l])), i);
    }
    d[l] = high << width | low;
  });
}

void halves_to_fp8(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t low = encode_float(float_value(a[l], Type::F16), i);
    d[l] = encode_float(float_value(a[l] >> 16, Type::F16), i) << 8 | low;
  });
}

void fp8_to_halves(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) {
    auto half = [&](uint64_t byte) {
      auto bits = static_cast<uint8_t>(byte);
      float value = i.source_type == Type::E4M3x2 ? e4m3_to_float(bits) : e5m2_to_float(bits);
      return encode_float(static_cast<long double>(value), i);
    };
    d[l] = half(a[l] >> 8) << 16 | half(a[l]);
  });
}

/// Two s32 saturated to 16 bits, or to 8 bits beside the low half of c.
void pack_saturated(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  unsigned width = 8 * bytes_of(i.type);
  for_lanes(c.active, [&](unsigned l) {
    auto clamp = [&](uint64_t slot) {
      __int128 value =
          std::min(std::max(integer_value(slot, Type::S32), lowest(i.type)), highest(i.type));
      return static_cast<uint64_t>(value) & ((uint64_t{1} << width) - 1);
    };
    uint64_t pair = clamp(a[l]) << width | clamp(b[l]);
    d[l] = width == 16 ? pair : (e[l] & 0xffff) << 16 | pair;
  });
}

void decode_pack(Statement& s, Instruction& i) {
  if (!s.take("sat")) s.unsupported("cvt.pack without .sat");
  i.type = s.type();
  if (s.type() != Type::S32) s.unsupported("type");
  bool bytes = bytes_of(i.type) == 1;
  if (bytes && s.type() != Type::B32) s.unsupported("type");
  i.handler = pack_saturated;
  i.target = s.target();
  i.a = s.source(Type::S32);
  i.b = s.source(Type::S32);
  if (bytes) i.c = s.source(Type::B32);
}

void decode_cvt(Statement& s, Instruction& i) {
  if (s.take("pack")) return decode_pack(s, i);
  int integer = s.take_one({"rni", "rzi", "rmi", "rpi"});
  i.rounding = s.rounding();
  i.flush = s.take("ftz");
  i.high = s.take("sat");
  i.saturate = s.take("satfinite");
  i.relu = s.take("relu");
  i.type = s.type();
  i.source_type = s.type();
  i.target = s.target();
  i.a = s.source(i.source_type);
  bool from_float = is_float(i.source_type);
  i.mode = static_cast<uint8_t>(integer + 1);
  if (from_float && !is_float(i.type) && integer < 0) i.mode = kTowardZero;

  bool to_pair = i.type == Type::F16x2 || i.type == Type::BF16x2 || i.type == Type::E4M3x2 ||
                 i.type == Type::E5M2x2;
  if (to_pair && i.source_type == Type::F32) {
    i.b = s.source(Type::F32);
    i.handler = f32_to_pair;
  } else if (to_pair && i.source_type == Type::F16x2 && bytes_of(i.type) == 2) {
    i.handler = halves_to_fp8;
  } else if (i.type == Type::F16x2 && bytes_of(i.source_type) == 2) {
    i.handler = fp8_to_halves;
  } else if (to_pair || bytes_of(i.source_type) > 8 || i.source_type == Type::F16x2 ||
             i.source_type == Type::BF16x2 || i.source_type == Type::E4M3x2 ||
             i.source_type == Type::E5M2x2) {
    s.unsupported("pair of types");
  } else if (!from_float && !is_float(i.type) && !i.high) {
    i.handler = i.source_type == Type::U8    ? convert_integer<uint8_t>
                : i.source_type == Type::S8  ? convert_integer<int8_t>
                : i.source_type == Type::U16 ? convert_integer<uint16_t>
                : i.source_type == Type::S16 ? convert_integer<int16_t>
                : i.source_type == Type::U32 ? convert_integer<uint32_t>
                : i.source_type == Type::S32 ? convert_integer<int32_t>
                                             : convert_integer<uint64_t>;
  } else if (i.type == Type::BF16 && i.source_type == Type::F32 &&
             i.rounding == Rounding::NearestEven && !i.relu && !i.saturate && !i.high && !i.flush) {
    i.handler = f32_to_bf16;
  } else if (i.type == Type::F32 && i.source_type == Type::F16 && i.mode == kNone && !i.high &&
             !i.relu) {
    i.handler = f16_to_f32;
  } else if (i.type == Type::F32 && i.source_type == Type::BF16 && i.mode == kNone && !i.high &&
             !i.relu) {
    i.handler = bf16_to_f32;
  } else {
    i.handler = convert;
  }
}

}  // namespace

void add_conversions(Decoders& d) { d.add({"cvt"}, decode_cvt); }

}  // namespace emu
