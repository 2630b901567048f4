#include "types.h"

#include <array>
#include <utility>

namespace emu {
namespace {

struct Row {
  const char* name;
  unsigned bytes;
};

constexpr std::array<Row, static_cast<size_t>(Type::None) + 1> kTypes = {{
    {"b8", 1},    {"b16", 2},    {"b32", 4},    {"b64", 8},  {"b128", 16}, {"u8", 1},  {"u16", 2},
    {"u32", 4},   {"u64", 8},    {"s8", 1},     {"s16", 2},  {"s32", 4},   {"s64", 8}, {"f16", 2},
    {"f16x2", 4}, {"bf16", 2},   {"bf16x2", 4}, {"tf32", 4}, {"f32", 4},   {"f64", 8}, {"e4m3", 1},
    {"e5m2", 1},  {"e4m3x2", 2}, {"e5m2x2", 2}, {"pred", 1}, {"none", 0},
}};

}  // namespace

Type type_named(std::string_view name) {
  for (size_t i = 0; i + 1 < kTypes.size(); i++) {
    if (name == kTypes[i].name) return static_cast<Type>(i);
  }
  return Type::None;
}

const char* name_of(Type type) { return kTypes[static_cast<size_t>(type)].name; }
unsigned bytes_of(Type type) { return kTypes[static_cast<size_t>(type)].bytes; }

}  // namespace emu
