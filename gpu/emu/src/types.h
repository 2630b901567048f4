// The scalar types of PTX and the way their values lie in a register slot.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

namespace emu {

/// Anything that stops a module or a launch; `what()` names the line of the PTX text where there is
/// one.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Type : uint8_t {
  B8,
  B16,
  B32,
  B64,
  B128,
  U8,
  U16,
  U32,
  U64,
  S8,
  S16,
  S32,
  S64,
  F16,
  F16x2,
  BF16,
  BF16x2,
  TF32,
  F32,
  F64,
  E4M3,
  E5M2,
  E4M3x2,
  E5M2x2,
  Pred,
  None,
};

enum class Rounding : uint8_t { NearestEven, Zero, Down, Up, NearestAway };
enum class Space : uint8_t { Generic, Global, Shared, Local, Const, Param };
enum class Comparison : uint8_t {
  Eq,
  Ne,
  Lt,
  Le,
  Gt,
  Ge,
  Equ,
  Neu,
  Ltu,
  Leu,
  Gtu,
  Geu,  // true where an operand is NaN
  Num,
  Nan,
};

/// The type of a name as modifiers spell it ("u32"), or None.
Type type_named(std::string_view name);
const char* name_of(Type type);
unsigned bytes_of(Type type);

inline bool is_signed(Type type) { return type >= Type::S8 && type <= Type::S64; }
inline bool is_float(Type type) { return type >= Type::F16 && type <= Type::F64; }

template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

/// A slot holds 64 bits per lane. A value lies in the low bits; what is above them is not read.
template <class T>
inline T get(uint64_t slot) {
  return static_cast<T>(slot);
}
template <>
inline float get<float>(uint64_t slot) {
  return bit_cast<float>(static_cast<uint32_t>(slot));
}
template <>
inline double get<double>(uint64_t slot) {
  return bit_cast<double>(slot);
}

template <class T>
inline uint64_t put(T value) {
  return static_cast<uint64_t>(value);
}
template <>
inline uint64_t put<float>(float value) {
  return bit_cast<uint32_t>(value);
}
template <>
inline uint64_t put<double>(double value) {
  return bit_cast<uint64_t>(value);
}

constexpr unsigned kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

/// Calls f(lane) for every active lane, in order.
template <class F>
inline void for_lanes(uint32_t active, F f) {
  if (active == kAllLanes) {
    for (unsigned lane = 0; lane < kLanes; lane++) f(lane);
  } else {
    for (uint32_t rest = active; rest != 0; rest &= rest - 1) f(__builtin_ctz(rest));
  }
}

inline bool is_f32_or_f64(Type type) { return type == Type::F32 || type == Type::F64; }

}  // namespace emu
