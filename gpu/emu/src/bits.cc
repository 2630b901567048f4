// Bits and bytes: logic, shifts, fields, permutations, moves.
#include <algorithm>

#include "operators.h"
#include "statement.h"

namespace emu {
namespace {

struct And {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return a & b;
  }
};
struct Or {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return a | b;
  }
};
struct Xor {
  template <class T>
  static T apply(T a, T b, const Instruction&) {
    return a ^ b;
  }
};
struct Not {
  template <class T>
  static T apply(T a, const Instruction&) {
    return static_cast<T>(~a);
  }
};
struct LogicalNot {
  template <class T>
  static T apply(T a, const Instruction&) {
    return a == 0;
  }
};
struct ReverseBits {
  template <class T>
  static T apply(T a, const Instruction&) {
    T r = 0;
    for (unsigned bit = 0; bit < 8 * sizeof(T); bit++) r = static_cast<T>(r << 1 | (a >> bit & 1));
    return r;
  }
};

template <class Op>
void logic_predicates(Context& c, const Instruction& i) {
  c.set_predicate(i.target_predicate,
                  Op::apply(c.source_predicate(i), c.predicate(i.source_predicate2), i));
}

template <class Op>
void decode_logic(Statement& s, Instruction& i) {
  i.type = s.type();
  if (i.type == Type::Pred) {
    i.handler = logic_predicates<Op>;
    i.target_predicate = s.target_predicate();
    s.source_predicate(i);
    i.source_predicate2 = s.predicate();
    return;
  }
  i.handler = EMU_FOR_INTEGER(i.type, binary, Op);
  i.target = s.target();
  i.a = s.source(i.type);
  i.b = s.source(i.type);
  require(s, i);
}

/// A shift by the width or more leaves nothing, or only signs.
template <class T>
void shift_left(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  constexpr uint32_t kWidth = 8 * sizeof(T);
  for_lanes(c.active, [&](unsigned l) {
    auto by = static_cast<uint32_t>(b[l]);
    d[l] = by >= kWidth ? 0 : put<T>(static_cast<T>(get<T>(a[l]) << by));
  });
}

template <class T>
void shift_right(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  constexpr uint32_t kWidth = 8 * sizeof(T);
  for_lanes(c.active, [&](unsigned l) {
    auto by = static_cast<uint32_t>(b[l]);
    if (std::is_signed<T>::value) {
      by = std::min(by, kWidth - 1);
    } else if (by >= kWidth) {
      d[l] = 0;
      return;
    }
    d[l] = put<T>(static_cast<T>(get<T>(a[l]) >> by));
  });
}

template <bool Left>
void funnel_shift(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  for_lanes(c.active, [&](unsigned l) {
    auto by = static_cast<uint32_t>(e[l]);
    by = i.mode != 0 ? by & 31 : std::min(by, 32u);  // wrap, clamp
    uint64_t both = b[l] << 32 | static_cast<uint32_t>(a[l]);
    d[l] = static_cast<uint32_t>(Left ? (both << by) >> 32 : both >> by);
  });
}

void three_input_logic(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t result = 0;
    for (unsigned row = 0; row < 8; row++) {
      if ((i.offset >> row & 1) == 0) continue;
      result |= (row & 4 ? a[l] : ~a[l]) & (row & 2 ? b[l] : ~b[l]) & (row & 1 ? e[l] : ~e[l]);
    }
    d[l] = static_cast<uint32_t>(result);
  });
}

/// The four selectors (bytes 0 … 3 of the result in nibbles 0 … 3) of prmt's named modes.
constexpr uint16_t kPermutations[6][4] = {
    {0x3210, 0x4321, 0x5432, 0x6543},  // f4e
    {0x5670, 0x6701, 0x7012, 0x0123},  // b4e
    {0x0000, 0x1111, 0x2222, 0x3333},  // rc8
    {0x3210, 0x3211, 0x3222, 0x3333},  // ecl
    {0x0000, 0x1110, 0x2210, 0x3210},  // ecr
    {0x1010, 0x3232, 0x1010, 0x3232},  // rc16
};

void permute_bytes(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t bytes = b[l] << 32 | static_cast<uint32_t>(a[l]);
    auto selector = static_cast<uint32_t>(e[l]);
    if (i.mode != 0) selector = kPermutations[i.mode - 1][selector & 3];
    uint32_t result = 0;
    for (unsigned n = 0; n < 4; n++) {
      uint32_t nibble = selector >> (4 * n) & 15;
      auto byte = static_cast<uint8_t>(bytes >> (8 * (nibble & 7)));
      if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;  // the sign, repeated
      result |= static_cast<uint32_t>(byte) << (8 * n);
    }
    d[l] = result;
  });
}

template <class T>
void extract_field(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  constexpr unsigned kTop = 8 * sizeof(T) - 1;
  for_lanes(c.active, [&](unsigned l) {
    auto bits = static_cast<typename std::make_unsigned<T>::type>(a[l]);
    unsigned position = b[l] & 255;
    unsigned length = e[l] & 255;
    bool sign = std::is_signed<T>::value && length > 0 &&
                (bits >> std::min(position + length - 1, kTop) & 1) != 0;
    uint64_t result = 0;
    for (unsigned n = 0; n <= kTop; n++) {
      bool bit = n < length && position + n <= kTop ? bits >> (position + n) & 1 : sign;
      result |= static_cast<uint64_t>(bit) << n;
    }
    d[l] = result;
  });
}

template <class T>
void insert_field(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  const uint64_t* f = c.slot(i.d);
  for_lanes(c.active, [&](unsigned l) {
    unsigned position = e[l] & 255;
    unsigned length = f[l] & 255;
    uint64_t ones = length >= 64 ? ~uint64_t{0} : (uint64_t{1} << length) - 1;
    uint64_t mask = position >= 64 ? 0 : ones << position;
    uint64_t field = position >= 64 ? 0 : a[l] << position;
    d[l] = static_cast<T>((b[l] & ~mask) | (field & mask));
  });
}

template <class T>
void find_leading(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  constexpr unsigned kWidth = 8 * sizeof(T);
  for_lanes(c.active, [&](unsigned l) {
    T value = get<T>(a[l]);
    if (std::is_signed<T>::value && value < T(0)) value = static_cast<T>(~value);
    auto bits = static_cast<uint64_t>(static_cast<typename std::make_unsigned<T>::type>(value));
    if (bits == 0) {
      d[l] = 0xffffffffu;
      return;
    }
    auto top = 63 - static_cast<unsigned>(__builtin_clzll(bits));
    d[l] = i.mode != 0 ? kWidth - 1 - top : top;  // shiftamt
  });
}

template <class T>
void count_ones(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active,
            [&](unsigned l) { d[l] = static_cast<unsigned>(__builtin_popcountll(get<T>(a[l]))); });
}

template <class T>
void count_leading_zeros(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  constexpr unsigned kWidth = 8 * sizeof(T);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t bits = get<T>(a[l]);
    d[l] = bits == 0 ? kWidth : static_cast<unsigned>(__builtin_clzll(bits)) - (64 - kWidth);
  });
}

/// Sums of four products of bytes; b and the bytes' signs by mode.
void dot_product_4(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  const uint64_t* b = c.slot(i.b);
  const uint64_t* e = c.slot(i.c);
  for_lanes(c.active, [&](unsigned l) {
    auto byte = [](uint64_t bits, unsigned n, bool has_sign) {
      auto value = static_cast<uint8_t>(bits >> (8 * n));
      return has_sign ? int64_t{static_cast<int8_t>(value)} : int64_t{value};
    };
    auto sum = static_cast<int64_t>(get<int32_t>(e[l]));
    for (unsigned n = 0; n < 4; n++) {
      sum += byte(a[l], n, i.type == Type::S32) * byte(b[l], n, i.source_type == Type::S32);
    }
    d[l] = static_cast<uint32_t>(sum);
  });
}

void move(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) { d[l] = a[l]; });
}

void move_predicate(Context& c, const Instruction& i) {
  c.set_predicate(i.target_predicate, c.source_predicate(i));
}

void not_predicate(Context& c, const Instruction& i) {
  c.set_predicate(i.target_predicate, ~c.source_predicate(i));
}

/// Elements of `bytes` each, the first in the lowest bits.
void pack(Context& c, const Instruction& i) {
  uint64_t mask = i.bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * i.bytes)) - 1;
  uint64_t* d = c.slot(i.target);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t result = 0;
    for (uint32_t n = 0; n < i.list_a.count; n++) {
      result |= (c.slot(i.list_a, n)[l] & mask) << (8 * i.bytes * n);
    }
    d[l] = result;
  });
}

void unpack(Context& c, const Instruction& i) {
  uint64_t mask = i.bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * i.bytes)) - 1;
  const uint64_t* a = c.slot(i.a);
  for_lanes(c.active, [&](unsigned l) {
    uint64_t bits = a[l];
    for (uint32_t n = 0; n < i.list.count; n++)
      c.slot(i.list, n)[l] = bits >> (8 * i.bytes * n) & mask;
  });
}

/// Clocks count the instructions of the launch so far: time itself is not modelled.
void read_clock(Context& c, const Instruction& i) {
  uint64_t* d = c.slot(i.target);
  for_lanes(c.active, [&](unsigned l) { d[l] = c.counters.warp_instructions; });
  c.yields = true;
}

Type bits_type(unsigned bytes) {
  return bytes == 1 ? Type::B8 : bytes == 2 ? Type::B16 : bytes == 4 ? Type::B32 : Type::B64;
}

void decode_mov(Statement& s, Instruction& i) {
  i.type = s.type();
  if (bytes_of(i.type) > 8) s.unsupported("type");
  if (i.type == Type::Pred) {
    i.handler = move_predicate;
    i.target_predicate = s.target_predicate();
    s.source_predicate(i);
    return;
  }
  if (s.next_is_vector()) {
    i.list = s.targets();
    i.bytes = static_cast<uint8_t>(bytes_of(i.type) / i.list.count);
    i.a = s.source(i.type);
    i.handler = unpack;
    return;
  }
  i.target = s.target();
  if (s.next_is_vector()) {
    auto parts = static_cast<unsigned>(std::count(s.peek().begin(), s.peek().end(), ',')) + 1;
    i.bytes = static_cast<uint8_t>(bytes_of(i.type) / parts);
    i.list_a = s.sources(bits_type(i.bytes));
    i.handler = pack;
    return;
  }
  for (const char* clock : {"%clock", "%clock64", "%clock_hi", "%globaltimer", "%globaltimer_lo"}) {
    if (s.peek() != clock) continue;
    s.skip();
    i.handler = read_clock;
    return;
  }
  i.a = s.source(i.type);
  i.handler = move;
}

void decode_not(Statement& s, Instruction& i) {
  i.type = s.type();
  if (i.type == Type::Pred) {
    i.handler = not_predicate;
    i.target_predicate = s.target_predicate();
    s.source_predicate(i);
    return;
  }
  i.handler = s.name() == "cnot" ? EMU_FOR_INTEGER(i.type, unary, LogicalNot)
                                 : EMU_FOR_INTEGER(i.type, unary, Not);
  i.target = s.target();
  i.a = s.source(i.type);
  require(s, i);
}

void decode_shl(Statement& s, Instruction& i) {
  i.type = s.type();
  i.handler = bytes_of(i.type) == 2   ? &shift_left<uint16_t>
              : bytes_of(i.type) == 4 ? &shift_left<uint32_t>
                                      : &shift_left<uint64_t>;
  i.target = s.target();
  i.a = s.source(i.type);
  i.b = s.source(Type::U32);
}

void decode_shr(Statement& s, Instruction& i) {
  i.type = s.type();
  bool sign = is_signed(i.type);
  i.handler = bytes_of(i.type) == 2   ? (sign ? &shift_right<int16_t> : &shift_right<uint16_t>)
              : bytes_of(i.type) == 4 ? (sign ? &shift_right<int32_t> : &shift_right<uint32_t>)
                                      : (sign ? &shift_right<int64_t> : &shift_right<uint64_t>);
  i.target = s.target();
  i.a = s.source(i.type);
  i.b = s.source(Type::U32);
}

void three_words(Statement& s, Instruction& i) {
  i.target = s.target();
  i.a = s.source(Type::B32);
  i.b = s.source(Type::B32);
  i.c = s.source(Type::B32);
}

void decode_shf(Statement& s, Instruction& i) {
  bool left = s.take("l");
  if (!left && !s.take("r")) s.unsupported("direction");
  i.mode = s.take("wrap");
  s.take("clamp");
  if (s.type() != Type::B32) s.unsupported("type");
  i.handler = left ? funnel_shift<true> : funnel_shift<false>;
  three_words(s, i);
}

void decode_lop3(Statement& s, Instruction& i) {
  if (s.type() != Type::B32) s.unsupported("type");
  i.handler = three_input_logic;
  three_words(s, i);
  i.offset = s.number();
}

void decode_prmt(Statement& s, Instruction& i) {
  if (s.type() != Type::B32) s.unsupported("type");
  i.mode = static_cast<uint8_t>(s.take_one({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"}) + 1);
  i.handler = permute_bytes;
  three_words(s, i);
}

void decode_bfe(Statement& s, Instruction& i) {
  i.type = s.type();
  i.handler = i.type == Type::U32   ? &extract_field<uint32_t>
              : i.type == Type::S32 ? &extract_field<int32_t>
              : i.type == Type::U64 ? &extract_field<uint64_t>
              : i.type == Type::S64 ? &extract_field<int64_t>
                                    : nullptr;
  require(s, i);
  i.target = s.target();
  i.a = s.source(i.type);
  i.b = s.source(Type::U32);
  i.c = s.source(Type::U32);
}

void decode_bfi(Statement& s, Instruction& i) {
  i.type = s.type();
  i.handler = bytes_of(i.type) == 4 ? &insert_field<uint32_t> : &insert_field<uint64_t>;
  i.target = s.target();
  i.a = s.source(i.type);
  i.b = s.source(i.type);
  i.c = s.source(Type::U32);
  i.d = s.source(Type::U32);
}

void decode_bfind(Statement& s, Instruction& i) {
  i.mode = s.take("shiftamt");
  i.type = s.type();
  i.handler = i.type == Type::U32   ? &find_leading<uint32_t>
              : i.type == Type::S32 ? &find_leading<int32_t>
              : i.type == Type::U64 ? &find_leading<uint64_t>
              : i.type == Type::S64 ? &find_leading<int64_t>
                                    : nullptr;
  require(s, i);
  i.target = s.target();
  i.a = s.source(i.type);
}

template <Handler Of32, Handler Of64>
void decode_count(Statement& s, Instruction& i) {
  i.type = s.type();
  i.handler = bytes_of(i.type) == 4 ? Of32 : Of64;
  i.target = s.target();
  i.a = s.source(i.type);
}

void decode_brev(Statement& s, Instruction& i) {
  i.type = s.type();
  i.handler = EMU_FOR_INTEGER(i.type, unary, ReverseBits);
  require(s, i);
  i.target = s.target();
  i.a = s.source(i.type);
}

void decode_dp4a(Statement& s, Instruction& i) {
  i.type = s.type();
  i.source_type = s.type();
  i.handler = dot_product_4;
  three_words(s, i);
}

}  // namespace

void add_bits(Decoders& d) {
  d.add({"and"}, decode_logic<And>);
  d.add({"or"}, decode_logic<Or>);
  d.add({"xor"}, decode_logic<Xor>);
  d.add({"not", "cnot"}, decode_not);
  d.add({"shl"}, decode_shl);
  d.add({"shr"}, decode_shr);
  d.add({"shf"}, decode_shf);
  d.add({"lop3"}, decode_lop3);
  d.add({"prmt"}, decode_prmt);
  d.add({"bfe"}, decode_bfe);
  d.add({"bfi"}, decode_bfi);
  d.add({"bfind"}, decode_bfind);
  d.add({"popc"}, decode_count<count_ones<uint32_t>, count_ones<uint64_t>>);
  d.add({"clz"}, decode_count<count_leading_zeros<uint32_t>, count_leading_zeros<uint64_t>>);
  d.add({"brev"}, decode_brev);
  d.add({"dp4a"}, decode_dp4a);
  d.add({"mov"}, decode_mov);
}

}  // namespace emu
