// Number formats that C++ lacks: bf16, f16, tf32 and the two 8-bit formats, with PTX's roundings.
#pragma once

#include "types.h"

namespace emu {

/// A binary floating-point format of up to 64 bits.
struct Format {
  int exponent_bits;
  int mantissa_bits;
  bool has_infinity;
  uint64_t nan;         ///< the canonical NaN
  uint64_t max_finite;  ///< bits of the largest finite magnitude
};

constexpr Format kF16 = {5, 10, true, 0x7fff, 0x7bff};
constexpr Format kBF16 = {8, 7, true, 0x7fff, 0x7f7f};
constexpr Format kTF32 = {8, 10, true, 0x3ffff, 0x3fbff};
constexpr Format kF32 = {8, 23, true, 0x7fffffff, 0x7f7fffff};
constexpr Format kF64 = {11, 52, true, 0x7fffffffffffffff, 0x7fefffffffffffff};
constexpr Format kE4M3 = {4, 3, false, 0x7f, 0x7e};
constexpr Format kE5M2 = {5, 2, true, 0x7f, 0x7b};

/// Rounds a number once to a format. With `saturate` what is beyond the largest finite number
/// becomes it; a format without infinities always saturates.
uint64_t encode(long double value, const Format& format, Rounding rounding, bool saturate);

float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float value);  ///< to nearest even
float e4m3_to_float(uint8_t bits);
float e5m2_to_float(uint8_t bits);

inline float bf16_to_float(uint16_t bits) {
  return bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// To nearest even.
inline uint16_t float_to_bf16(float value) {
  uint32_t bits = bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(kBF16.nan);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// a · b + c of formats with at most 11 significant bits, rounded to odd in f32: rounding the
/// result again to such a format gives what one rounding of the exact value gives.
float fused_to_odd(float a, float b, float c);

/// Subnormal numbers become zeros of their sign.
inline float flush_subnormal(float value) {
  uint32_t bits = bit_cast<uint32_t>(value);
  return (bits & 0x7f800000u) == 0 ? bit_cast<float>(bits & 0x80000000u) : value;
}

}  // namespace emu
