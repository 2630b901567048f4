// Matrix products: mma.sync and wgmma.
//
// Products are exact and are added in f32 (s32, f64) one after another from k = 0 on, beginning
// with the accumulator; an f16 result is rounded once. The hardware's order and its truncations are
// not modelled.
#include <algorithm>

#include "operators.h"
#include "statement.h"

namespace emu {
namespace {

constexpr unsigned kMaxK = 32;
constexpr unsigned kMaxN = 256;

bool is_integer(Type type) { return type == Type::S8 || type == Type::U8; }

/// Bits of one element in a 32-bit register of a fragment, or in shared memory.
unsigned element_bits(Type type) {
  return type == Type::TF32 ? 32 : type == Type::F16 || type == Type::BF16 ? 16 : 8;
}

float element(Type type, uint32_t bits) {
  switch (type) {
    case Type::F16:
      return f16_to_float(static_cast<uint16_t>(bits));
    case Type::BF16:
      return bf16_to_float(static_cast<uint16_t>(bits));
    case Type::TF32:
      return bit_cast<float>(bits & 0xffffe000u);
    case Type::E4M3:
      return e4m3_to_float(static_cast<uint8_t>(bits));
    case Type::E5M2:
      return e5m2_to_float(static_cast<uint8_t>(bits));
    case Type::S8:
      return static_cast<float>(static_cast<int8_t>(bits));
    default:
      return static_cast<float>(static_cast<uint8_t>(bits));
  }
}

/// Operands of a product as numbers. Integers up to 8 bits are exact in f32.
struct Operands {
  float a[16][kMaxK];
  float b[kMaxK][kMaxN];
};

thread_local Operands operands;

/// Lane l holds rows l/4 and l/4 + 8; its registers go through the rows first, then along k.
void read_fragment_a(Context& c, const List& list, Type type, float sign) {
  unsigned bits = element_bits(type), each = 32 / bits;
  uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
  for (uint32_t r = 0; r < list.count; r++) {
    const uint64_t* slot = c.slot(list, r);
    for (unsigned l = 0; l < kLanes; l++) {
      for (unsigned e = 0; e < each; e++) {
        uint32_t value = static_cast<uint32_t>(slot[l]) >> (bits * e) & mask;
        operands.a[l / 4 + 8 * (r & 1)][(r / 2) * 4 * each + (l % 4) * each + e] =
            sign * element(type, value);
      }
    }
  }
}

/// Lane l holds column l/4.
void read_fragment_b(Context& c, const List& list, Type type) {
  unsigned bits = element_bits(type), each = 32 / bits;
  uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
  for (uint32_t r = 0; r < list.count; r++) {
    const uint64_t* slot = c.slot(list, r);
    for (unsigned l = 0; l < kLanes; l++) {
      for (unsigned e = 0; e < each; e++) {
        uint32_t value = static_cast<uint32_t>(slot[l]) >> (bits * e) & mask;
        operands.b[r * 4 * each + (l % 4) * each + e][l / 4] = element(type, value);
      }
    }
  }
}

/// Accumulator of 16 × n: lane l holds of every 8 columns two beside each other, in rows l/4 and
/// l/4 + 8. F calls f(row, column, slot, lane, half): `half` says which part of a register of two
/// f16.
template <class F>
void for_accumulator(Context& c, const List& list, unsigned n, bool f16, F f) {
  for (unsigned tile = 0; tile < n / 8; tile++) {
    for (unsigned part = 0; part < 4; part++) {
      uint64_t* slot = c.slot(list, f16 ? 2 * tile + part / 2 : 4 * tile + part);
      for (unsigned l = 0; l < kLanes; l++)
        f(l / 4 + 8 * (part / 2), 8 * tile + 2 * (l % 4) + part % 2, slot[l], part % 2);
    }
  }
}

template <unsigned N>
void multiply_add(float (*d)[N], unsigned n, unsigned k) {
  for (unsigned row = 0; row < 16; row++) {
    for (unsigned at = 0; at < k; at++) {
      float a = operands.a[row][at];
      for (unsigned column = 0; column < n; column++) d[row][column] += a * operands.b[at][column];
    }
  }
}

void read_accumulator(Context& c, const List& list, unsigned n, bool f16, float* d,
                      unsigned stride) {
  for_accumulator(
      c, list, n, f16, [&](unsigned row, unsigned column, uint64_t& slot, unsigned half) {
        d[row * stride + column] =
            f16 ? f16_to_float(static_cast<uint16_t>(slot >> (16 * half))) : get<float>(slot);
      });
}

void write_accumulator(Context& c, const List& list, unsigned n, bool f16, const float* d,
                       unsigned stride) {
  for_accumulator(c, list, n, f16,
                  [&](unsigned row, unsigned column, uint64_t& slot, unsigned half) {
                    float value = d[row * stride + column];
                    if (!f16) {
                      slot = put<float>(canonical(value));
                    } else if (half == 0) {
                      slot = float_to_f16(value);
                    } else {
                      slot |= static_cast<uint64_t>(float_to_f16(value)) << 16;
                    }
                  });
}

/// The sum of a row of products of 8-bit integers and an s32, which wraps or saturates.
uint32_t integer_sum(unsigned row, unsigned column, unsigned k, uint64_t start, bool saturates) {
  int64_t sum = get<int32_t>(start);
  for (unsigned at = 0; at < k; at++) {
    sum += static_cast<int64_t>(operands.a[row][at]) * static_cast<int64_t>(operands.b[at][column]);
  }
  if (saturates) sum = std::min<int64_t>(std::max<int64_t>(sum, INT32_MIN), INT32_MAX);
  return static_cast<uint32_t>(sum);
}

// ---- mma.sync
// ------------------------------------------------------------------------------------------

void count_product(Context& c, unsigned m, unsigned n, unsigned k) {
  c.counters.tensor_instructions++;
  c.counters.multiply_adds += uint64_t{m} * n * k;
}

void multiply(Context& c, const Instruction& i) {
  if (!c.whole_warp()) return;
  count_product(c, 16, 8, i.k);
  read_fragment_a(c, i.list_a, i.type, 1);
  read_fragment_b(c, i.list_b, i.source_type);
  float d[16][8];
  read_accumulator(c, i.list_c, 8, i.list_c.count == 2, &d[0][0], 8);
  multiply_add<8>(d, 8, i.k);
  write_accumulator(c, i.list, 8, i.list.count == 2, &d[0][0], 8);
}

void multiply_integers(Context& c, const Instruction& i) {
  if (!c.whole_warp()) return;
  count_product(c, 16, 8, i.k);
  read_fragment_a(c, i.list_a, i.type, 1);
  read_fragment_b(c, i.list_b, i.source_type);
  uint32_t d[16][8];
  for_accumulator(c, i.list_c, 8, false,
                  [&](unsigned row, unsigned column, uint64_t& slot, unsigned) {
                    d[row][column] = integer_sum(row, column, i.k, slot, i.saturate);
                  });
  for_accumulator(
      c, i.list, 8, false,
      [&](unsigned row, unsigned column, uint64_t& slot, unsigned) { slot = d[row][column]; });
}

/// m8n8k4 of f64: one element of a and b in every lane, two of the sum.
void multiply_doubles(Context& c, const Instruction& i) {
  if (!c.whole_warp()) return;
  count_product(c, 8, 8, 4);
  double d[8][8];
  for (unsigned l = 0; l < kLanes; l++) {
    for (unsigned e = 0; e < 2; e++)
      d[l / 4][2 * (l % 4) + e] = get<double>(c.slot(i.list_c, e)[l]);
  }
  const uint64_t* a = c.slot(i.list_a, 0);
  const uint64_t* b = c.slot(i.list_b, 0);
  for (unsigned row = 0; row < 8; row++) {
    for (unsigned column = 0; column < 8; column++) {
      for (unsigned k = 0; k < 4; k++) {
        d[row][column] =
            std::fma(get<double>(a[4 * row + k]), get<double>(b[4 * column + k]), d[row][column]);
      }
    }
  }
  for (unsigned l = 0; l < kLanes; l++) {
    for (unsigned e = 0; e < 2; e++) c.slot(i.list, e)[l] = put<double>(d[l / 4][2 * (l % 4) + e]);
  }
}

void decode_mma(Statement& s, Instruction& i) {
  if (!s.take("sync") || !s.take("aligned")) s.unsupported("mma without .sync.aligned");
  s.shape(i);
  if (!s.take("row") || !s.take("col")) s.unsupported("layout");
  i.saturate = s.take("satfinite");
  Type result = s.type();
  i.type = s.type();
  i.source_type = s.type();
  Type start = s.type();
  i.list = s.targets();
  i.list_a = s.sources(Type::B32);
  i.list_b = s.sources(Type::B32);
  i.list_c = s.sources(result);
  if (i.type == Type::F64 && i.m == 8 && i.n == 8 && i.k == 4 && start == Type::F64) {
    i.handler = multiply_doubles;
    return;
  }
  unsigned each = 32 / element_bits(i.type);
  bool known = i.type == Type::F16 || i.type == Type::BF16 || i.type == Type::TF32 ||
               i.type == Type::E4M3 || i.type == Type::E5M2 || is_integer(i.type);
  bool same_width = element_bits(i.type) == element_bits(i.source_type) &&
                    is_integer(i.type) == is_integer(i.source_type);
  if (!known || !same_width || i.m != 16 || i.n != 8 || i.k % (4 * each) != 0 || i.k > 8 * each)
    s.unsupported("shape or types");
  if (i.list_a.count != i.k / (2 * each) || i.list_b.count != i.k / (4 * each))
    s.unsupported("registers");
  bool integers = is_integer(i.type);
  auto registers = [](Type type) { return type == Type::F16 ? 2u : 4u; };
  bool results = integers ? result == Type::S32 && start == Type::S32
                          : (result == Type::F32 || result == Type::F16) &&
                                (start == Type::F32 || start == Type::F16);
  if (!results || i.list.count != registers(result) || i.list_c.count != registers(start))
    s.unsupported("result");
  i.handler = integers ? multiply_integers : multiply;
}

// ---- wgmma
// ---------------------------------------------------------------------------------------------

/// A matrix in shared memory as a descriptor gives it: rows of 16 bytes in 8 × 16-byte core
/// matrices, in swizzled rows of 32, 64 or 128 bytes or without.
class SharedMatrix {
 public:
  SharedMatrix(Context& c, uint64_t descriptor, bool mn_major)
      : base_(static_cast<uint32_t>(descriptor & 0x3fff) << 4),
        leading_(static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4),
        stride_(static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4),
        swizzle_(static_cast<unsigned>(descriptor >> 62)),
        mn_major_(mn_major) {
    if ((descriptor >> 49 & 7) != 0)
      c.fault(ReportKind::Unsupported, "a matrix descriptor with a base offset");
  }

  /// Shared address of the 16 bytes that hold, with k the inner dimension, elements from 16·inner
  /// bytes on of row `outer`; with m or n the inner one, of k = `outer`.
  uint32_t row(unsigned outer, unsigned inner) const {
    constexpr unsigned kWidths[4] = {1, 8, 4, 2};  // 16-byte units of a swizzled row
    unsigned width = kWidths[swizzle_];
    uint32_t offset;
    if (!mn_major_) {
      offset = (outer % 8) * width * 16 + (outer / 8) * stride_ +
               inner * (swizzle_ == 0 ? leading_ : 16);
    } else if (swizzle_ == 0) {
      offset = inner * stride_ + (outer % 8) * 16 + (outer / 8) * leading_;
    } else {
      offset = (inner % width) * 16 + (inner / width) * leading_ + (outer % 8) * width * 16 +
               (outer / 8) * stride_;
    }
    uint32_t address = base_ + offset;
    return address ^ (address >> 7 & (width - 1)) << 4;
  }

 private:
  uint32_t base_, leading_, stride_;
  unsigned swizzle_;
  bool mn_major_;
};

/// Reads `rows` × k elements; put(row, k, value) takes each.
template <class F>
void read_shared_matrix(Context& c, const SharedMatrix& matrix, Type type, bool mn_major,
                        unsigned first, unsigned rows, unsigned k, AsyncProduct& product, F put) {
  unsigned bits = element_bits(type), each = 128 / bits;
  unsigned outers = mn_major ? k : rows;
  unsigned inners = (mn_major ? rows : k) / each;
  for (unsigned outer = 0; outer < outers; outer++) {
    for (unsigned inner = 0; inner < inners; inner++) {
      uint32_t address =
          mn_major ? matrix.row(outer, first / each + inner) : matrix.row(first + outer, inner);
      const uint8_t* memory = c.access(Space::Shared, address, 16, 0, Access::Read);
      product.units.push_back(address);
      for (unsigned e = 0; e < each; e++) {
        uint32_t value = 0;
        std::memcpy(&value, memory + e * bits / 8, bits / 8);
        unsigned along = inner * each + e;
        put(mn_major ? along : outer, mn_major ? outer : along, element(type, value));
      }
    }
  }
}

void multiply_warpgroup(Context& c, const Instruction& i) {
  if (!c.whole_warp()) return;
  count_product(c, 16, i.n, i.k);
  AsyncProduct product;
  product.group = c.warp.product_group;
  float sign_a = i.offset < 0 ? -1.0f : 1.0f, sign_b = i.offset_b < 0 ? -1.0f : 1.0f;
  if (i.list_a.count > 0) {
    read_fragment_a(c, i.list_a, i.type, sign_a);
    for (uint32_t n = 0; n < i.list_a.count; n++) product.slots.push_back(c.slot_of(i.list_a, n));
  } else {
    SharedMatrix a(c, c.slot(i.a)[0], i.transpose);
    read_shared_matrix(
        c, a, i.type, i.transpose, c.warp.index % 4 * 16, 16, i.k, product,
        [&](unsigned row, unsigned k, float value) { operands.a[row][k] = sign_a * value; });
  }
  SharedMatrix b(c, c.slot(i.b)[0], i.high);
  read_shared_matrix(
      c, b, i.source_type, i.high, 0, i.n, i.k, product,
      [&](unsigned column, unsigned k, float value) { operands.b[k][column] = sign_b * value; });
  bool adds = (c.source_predicate(i) & 1) != 0;
  if (is_integer(i.type)) {
    for_accumulator(c, i.list, i.n, false,
                    [&](unsigned row, unsigned column, uint64_t& slot, unsigned) {
                      slot = integer_sum(row, column, i.k, adds ? slot : 0, i.saturate);
                    });
  } else {
    static thread_local float d[16][kMaxN];
    bool f16 = i.list.count == i.n / 4u;
    if (adds) {
      read_accumulator(c, i.list, i.n, f16, &d[0][0], kMaxN);
    } else {
      for (auto& row : d) std::fill_n(row, i.n, 0.0f);
    }
    multiply_add<kMaxN>(d, i.n, i.k);
    write_accumulator(c, i.list, i.n, f16, &d[0][0], kMaxN);
  }
  for (uint32_t n = 0; n < i.list.count; n++) product.slots.push_back(c.slot_of(i.list, n));
  for (uint32_t slot : product.slots) c.warp.slot_in_flight[slot] = 1;
  c.warp.products.push_back(std::move(product));
}

/// The results were computed when the product was issued; here they become usable. What it read of
/// shared memory counts as read until now. The warps of a warpgroup go on together, as the hardware
/// lets them.
void wait_for_products(Context& c, const Instruction& i) {
  if (!c.whole_warp()) return;
  Warp& warp = c.warp;
  uint32_t allowed = static_cast<uint32_t>(i.offset);
  uint32_t limit = warp.product_group > allowed ? warp.product_group - allowed : 0;
  auto done =
      std::stable_partition(warp.products.begin(), warp.products.end(),
                            [&](const AsyncProduct& product) { return product.group >= limit; });
  for (auto it = done; it != warp.products.end(); ++it) {
    for (uint32_t slot : it->slots) warp.slot_in_flight[slot] = 0;
    uint64_t bytes = c.counters.shared_bytes_read;
    for (uint32_t address : it->units) c.access(Space::Shared, address, 16, 0, Access::Read);
    c.counters.shared_bytes_read = bytes;
  }
  warp.products.erase(done, warp.products.end());
  for (const AsyncProduct& product : warp.products) {
    for (uint32_t slot : product.slots) warp.slot_in_flight[slot] = 1;
  }
  if (c.block.warps.size() % 4 != 0)
    c.fault(ReportKind::Unsupported, "wgmma in a block that is not made of warpgroups");
  unsigned id = kBarriers + warp.index / 4;
  c.arrive(c.block.barriers[id], 4 * kLanes);
  warp.barrier = static_cast<int>(id);
  warp.at_barrier = &i;
  release_barriers(c.block);
}

void commit_products(Context& c, const Instruction&) {
  if (c.whole_warp()) c.warp.product_group++;
}

void fence_products(Context& c, const Instruction&) { c.whole_warp(); }

void decode_product(Statement& s, Instruction& i) {
  s.shape(i);
  i.saturate = s.take("satfinite");
  Type result = s.type();
  i.type = s.type();
  i.source_type = s.type();
  i.list = s.targets();
  i.list_c = i.list;
  if (s.next_is_vector()) {
    i.list_a = s.sources(Type::B32);
  } else {
    i.a = s.source(Type::B64);
  }
  i.b = s.source(Type::B64);
  s.source_predicate(i);
  unsigned bits = element_bits(i.type);
  bool integers = is_integer(i.type);
  if (!integers) {
    i.offset = s.number();
    i.offset_b = s.number();
  }
  if (bits == 16) {
    if (i.list_a.count == 0) i.transpose = s.number() != 0;
    i.high = s.number() != 0;
  }
  bool known = bits == element_bits(i.source_type) && integers == is_integer(i.source_type) &&
               i.type != Type::F32 && i.type != Type::F64 && i.m == 64 && i.n % 8 == 0 &&
               i.n >= 8 && i.n <= kMaxN && i.k * bits == 256;
  bool registers = i.list.count == (result == Type::F16 ? i.n / 4u : i.n / 2u) &&
                   (i.list_a.count == 0 || i.list_a.count == 4);
  bool sums = integers ? result == Type::S32 : result == Type::F32 || result == Type::F16;
  if (!known || !registers || !sums) s.unsupported("shape or types");
  i.asynchronous = true;
  i.handler = multiply_warpgroup;
}

void decode_wgmma(Statement& s, Instruction& i) {
  if (s.take("sp")) s.unsupported("sparse matrices");
  int which = s.take_one({"mma_async", "commit_group", "wait_group", "fence"});
  if (which < 0 || !s.take("sync") || !s.take("aligned")) s.unsupported("wgmma");
  switch (which) {
    case 0:
      return decode_product(s, i);
    case 1:
      i.handler = commit_products;
      break;
    case 2:
      i.handler = wait_for_products;
      i.offset = s.number();
      i.awaits = true;
      break;
    default:
      i.handler = fence_products;
      break;
  }
}

}  // namespace

void add_tensor(Decoders& d) {
  d.add({"mma"}, decode_mma);
  d.add({"wgmma"}, decode_wgmma);
}

}  // namespace emu
