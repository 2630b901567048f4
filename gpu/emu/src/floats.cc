#include "floats.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace emu {
namespace {

/// Rounds a non-negative number to an integer; `up_is_away` says which way Up and Down go.
long double round_magnitude(long double magnitude, Rounding rounding, bool negative) {
  long double below = std::floor(magnitude);
  long double rest = magnitude - below;
  if (rest == 0) return below;
  bool up = false;
  switch (rounding) {
    case Rounding::NearestEven:
      up = rest > 0.5L || (rest == 0.5L && std::fmod(below, 2.0L) != 0);
      break;
    case Rounding::NearestAway:
      up = rest >= 0.5L;
      break;
    case Rounding::Zero:
      up = false;
      break;
    case Rounding::Up:
      up = !negative;
      break;
    case Rounding::Down:
      up = negative;
      break;
  }
  return up ? below + 1 : below;
}

float decode(uint32_t bits, const Format& format) {
  uint32_t mantissa = bits & ((1u << format.mantissa_bits) - 1);
  uint32_t exponent = (bits >> format.mantissa_bits) & ((1u << format.exponent_bits) - 1);
  int bias = (1 << (format.exponent_bits - 1)) - 1;
  bool negative = bits >> (format.mantissa_bits + format.exponent_bits) & 1;
  uint32_t magnitude_bits = bits & ((1u << (format.mantissa_bits + format.exponent_bits)) - 1);
  float magnitude;
  if (magnitude_bits > format.max_finite) {
    bool infinite = format.has_infinity && mantissa == 0;
    magnitude = infinite ? INFINITY : NAN;
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), 1 - bias - format.mantissa_bits);
  } else {
    magnitude = std::ldexp(static_cast<float>(mantissa + (1u << format.mantissa_bits)),
                           static_cast<int>(exponent) - bias - format.mantissa_bits);
  }
  return negative ? -magnitude : magnitude;
}

template <size_t N>
std::array<float, N> decoded(const Format& format) {
  std::array<float, N> table;
  for (size_t i = 0; i < N; i++) table[i] = decode(static_cast<uint32_t>(i), format);
  return table;
}

}  // namespace

uint64_t encode(long double value, const Format& format, Rounding rounding, bool saturate) {
  if (std::isnan(value)) return format.nan;
  bool negative = std::signbit(value);
  uint64_t sign = negative ? uint64_t{1} << (format.exponent_bits + format.mantissa_bits) : 0;
  long double magnitude = std::fabs(value);
  uint64_t infinity = ((uint64_t{1} << format.exponent_bits) - 1) << format.mantissa_bits;
  bool to_finite = saturate || !format.has_infinity;
  if (std::isinf(value)) return sign | (to_finite ? format.max_finite : infinity);
  if (magnitude == 0) return sign;
  int bias = (1 << (format.exponent_bits - 1)) - 1;
  int exponent = std::max(std::ilogb(magnitude), 1 - bias);
  uint64_t one = uint64_t{1} << format.mantissa_bits;
  bool overflows = exponent > bias + (format.has_infinity ? 0 : 1);
  uint64_t code = format.max_finite + 1;
  if (!overflows) {
    long double units = std::ldexp(magnitude, format.mantissa_bits - exponent);
    auto rounded = static_cast<uint64_t>(round_magnitude(units, rounding, negative));
    // A carry into the next exponent comes out right by itself: `rounded` is then twice `one`.
    code = rounded < one
               ? rounded
               : (static_cast<uint64_t>(exponent + bias) << format.mantissa_bits) + (rounded - one);
  }
  if (code <= format.max_finite) return sign | code;
  bool away = rounding == Rounding::NearestEven || rounding == Rounding::NearestAway ||
              rounding == (negative ? Rounding::Down : Rounding::Up);
  return sign | (to_finite || !away ? format.max_finite : infinity);
}

float f16_to_float(uint16_t bits) { return static_cast<float>(bit_cast<_Float16>(bits)); }

uint16_t float_to_f16(float value) {
  if (std::isnan(value)) return static_cast<uint16_t>(kF16.nan);
  return bit_cast<uint16_t>(static_cast<_Float16>(value));
}

float e4m3_to_float(uint8_t bits) {
  static const auto table = decoded<256>(kE4M3);
  return table[bits];
}

float e5m2_to_float(uint8_t bits) {
  static const auto table = decoded<256>(kE5M2);
  return table[bits];
}

float fused_to_odd(float a, float b, float c) {
  // The product is exact; the sum's error is exact too (Knuth), and its sign says which neighbour
  // is odd.
  double product = static_cast<double>(a) * b;
  double sum = product + c;
  if (!std::isfinite(sum)) return static_cast<float>(sum);
  double part = sum - product;
  double error = (product - (sum - part)) + (c - part);
  if (error != 0 && (bit_cast<uint64_t>(sum) & 1) == 0) {
    sum = std::nextafter(sum, error > 0 ? INFINITY : -INFINITY);
  }
  float rounded = static_cast<float>(sum);
  if (std::isinf(rounded) || static_cast<double>(rounded) == sum) return rounded;
  if ((bit_cast<uint32_t>(rounded) & 1) == 0) {
    rounded = std::nextafterf(rounded, static_cast<double>(rounded) < sum ? INFINITY : -INFINITY);
  }
  return rounded;
}

}  // namespace emu
