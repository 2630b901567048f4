// One statement of PTX text, read from left to right by the decoder of its instruction.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "module.h"

namespace emu {

/// A construct this executor does not know. The function that holds it can not be launched.
struct Unsupported : Error {
  using Error::Error;
};

/// Names of a function's scopes as the parser keeps them.
class Names {
 public:
  virtual ~Names() = default;
  /// Slot of an operand that holds a value of `type`: register, immediate, variable's address or
  /// special.
  virtual uint32_t value(std::string_view text, Type type) = 0;
  virtual uint32_t target(std::string_view text) = 0;
  virtual uint32_t predicate(std::string_view text) = 0;
  virtual uint32_t target_predicate(std::string_view text) = 0;
  virtual bool is_predicate(std::string_view text) = 0;
  /// A mention of a label; its instruction is known when the function has been read.
  virtual int64_t label(std::string_view text) = 0;
  /// Where the operand is a variable or parameter by name: its space.
  virtual Space space_of(std::string_view text) = 0;
  virtual Function& function() = 0;
};

class Statement {
 public:
  Statement(std::string_view text, Names& names);

  const std::string& name() const { return name_; }

  /// Takes a modifier wherever it stands among those not yet taken.
  bool take(std::string_view modifier);
  /// Takes the first of the given modifiers that is there and returns its place in the list, or -1.
  int take_one(std::initializer_list<const char*> modifiers);
  /// Takes the first modifier that is a type.
  Type type();
  bool has_type() const;
  /// Takes .rn .rz .rm .rp .rna where one is there.
  Rounding rounding();
  Space space();
  /// Takes modifiers that say only how well something may be cached or in which scope it is
  /// ordered.
  void take_hints(Instruction& to);
  /// Takes a modifier "m16n8k16" into the instruction's shape.
  void shape(Instruction& to);

  size_t operands_left() const { return operands_.size() - next_; }
  std::string_view peek() const {
    return next_ < operands_.size() ? operands_[next_] : std::string_view{};
  }
  void skip() { next_++; }
  uint32_t target();
  uint32_t source(Type type);
  uint32_t predicate();
  uint32_t target_predicate();
  /// A predicate or its opposite "!p".
  void source_predicate(Instruction& to);
  /// "p" or "p|q".
  void target_predicates(Instruction& to);
  /// "r" or "r|p".
  void target_and_predicate(Instruction& to);
  void address(Instruction& to);
  void address(Instruction& to, uint32_t& slot, int64_t& offset);
  /// A vector "{…}", or a single register as a vector of one.
  List targets();
  List sources(Type type);
  int64_t label();
  /// The literal number of an operand that must be one.
  int64_t number();
  bool next_is_vector() const;

  /// Fails unless every modifier and operand was taken: what is not understood is never ignored.
  void finish() const;
  [[noreturn]] void unsupported(const std::string& what) const;
  Names& names() { return names_; }

 private:
  std::string_view operand();
  List list(bool as_targets, Type type);

  std::string text_;
  std::string name_;
  std::vector<std::string> modifiers_;
  std::vector<std::string> operands_;
  size_t next_ = 0;
  Names& names_;
};

/// Refuses a type that has no handler.
inline void require(Statement& s, const Instruction& i) {
  if (i.handler == nullptr) s.unsupported("type");
}

/// The target and two sources of its type.
inline void two_operands(Statement& s, Instruction& i) {
  i.target = s.target();
  i.a = s.source(i.type);
  i.b = s.source(i.type);
}

using Decoder = void (*)(Statement&, Instruction&);

/// Decoders by instruction name; every family of instructions adds its own.
class Decoders {
 public:
  Decoders();
  void add(std::initializer_list<const char*> names, Decoder decoder);
  /// Null where there is none.
  Decoder find(std::string_view name) const;

 private:
  std::map<std::string, Decoder, std::less<>> decoders_;
};

void add_arithmetic(Decoders& decoders);
void add_comparisons(Decoders& decoders);
void add_bits(Decoders& decoders);
void add_conversions(Decoders& decoders);
void add_control(Decoders& decoders);
void add_memory(Decoders& decoders);
void add_warp_collectives(Decoders& decoders);
void add_barriers(Decoders& decoders);
void add_tensor(Decoders& decoders);

}  // namespace emu
