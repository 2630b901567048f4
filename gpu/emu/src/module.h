// A parsed module: PTX as typed instruction tables, ready to execute.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "types.h"

namespace emu {

struct Context;
struct Instruction;
using Handler = void (*)(Context&, const Instruction&);

/// A run of slots in Function::lists: the registers of a vector or matrix operand.
struct List {
  uint32_t first = 0;
  uint32_t count = 0;
};

/// One instruction. Every operand is a register slot: immediates, addresses of variables and
/// special registers lie in slots of their own that are filled when a warp starts, so a handler
/// only reads slots. What the fields mean beyond their names is the matter of the handler and of
/// the decoder that set it.
struct Instruction {
  Handler handler = nullptr;
  uint32_t line = 0;
  Type type = Type::None;
  Type source_type = Type::None;
  Rounding rounding = Rounding::NearestEven;
  Space space = Space::Generic;
  Comparison comparison = Comparison::Eq;
  uint8_t mode = 0;   ///< the handler's own choice, e.g. which atomic operation
  uint8_t bytes = 0;  ///< of an element in memory
  bool flush : 1;     ///< .ftz
  bool saturate : 1;  ///< .sat, .satfinite
  bool relu : 1;
  bool propagate_nan : 1;  ///< .NaN
  bool high : 1;
  bool transpose : 1;
  bool synchronizes : 1;  ///< a load or store that orders others (.acquire, .release, .volatile)
  bool guard_negated : 1;
  bool source_negated : 1;  ///< the source predicate is read as its opposite
  bool branch : 1;          ///< goes to instruction `offset`
  bool leaves : 1;        ///< the instruction after it is not reached by the lanes that execute it
  bool asynchronous : 1;  ///< its results come later: wgmma.mma_async
  bool awaits : 1;        ///< wgmma.wait_group
  uint32_t guard = 0;     ///< predicate slot; 0, which names no register, means always
  // Slots of values.
  uint32_t target = 0;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  List list;                    ///< results
  List list_a, list_b, list_c;  ///< sources
  // Slots of predicates.
  uint32_t source_predicate = 0, source_predicate2 = 0;
  uint32_t target_predicate = 0, target_predicate2 = 0;
  int64_t offset = 0;            ///< added to the address in a, or the handler's own number
  int64_t offset_b = 0;          ///< the same for b
  uint16_t m = 0, n = 0, k = 0;  ///< shape of a matrix product

  Instruction()
      : flush(false),
        saturate(false),
        relu(false),
        propagate_nan(false),
        high(false),
        transpose(false),
        synchronizes(false),
        guard_negated(false),
        source_negated(false),
        branch(false),
        leaves(false),
        asynchronous(false),
        awaits(false) {}
};

/// Special registers that do not change while a warp runs.
enum class Special : uint8_t {
  TidX,
  TidY,
  TidZ,
  NTidX,
  NTidY,
  NTidZ,
  CtaX,
  CtaY,
  CtaZ,
  NCtaX,
  NCtaY,
  NCtaZ,
  Lane,
  WarpId,
  NWarpId,
  SmId,
  NSmId,
  GridId,
  EnvReg1,
  EnvReg2,
  DynamicShared,
  TotalShared,
  LanesEq,
  LanesLt,
  LanesLe,
  LanesGt,
  LanesGe,
  Zero,
  One,
};

/// Slots of no register: results nobody wants go to the first, and reading it gives nothing of use.
constexpr uint32_t kNoSlot = 0;
constexpr uint32_t kNever = 0, kAlways = 1, kNoPredicate = 2, kFirstPredicate = 3;

/// What a slot holds when a warp starts.
struct Preset {
  enum Kind : uint8_t { Constant, SpecialRegister, SharedAddress, DynamicSharedAddress };
  uint32_t slot;
  Kind kind;
  uint64_t value;
};

struct Parameter {
  std::string name;
  uint32_t offset;
  uint32_t bytes;
};

struct Function {
  std::string name;
  std::vector<Parameter> parameters;
  uint32_t parameter_bytes = 0;
  std::vector<Instruction> code;
  std::vector<uint32_t> lists;
  std::vector<Preset> presets;
  uint32_t slots = 0;
  uint32_t predicates = 0;
  uint32_t shared_bytes = 0;  ///< static
  uint32_t shared_alignment = 16;
  uint32_t local_bytes = 0;  ///< per thread
  uint32_t max_threads = 0;  ///< .maxntid or .reqntid as a product; 0 where absent
  bool uses_global_atomics = false;
  /// Set where the text has an instruction that is not supported: launching the function gives this
  /// error.
  std::string unsupported;
};

/// A variable of .global or .const space. Its storage belongs to the module.
struct GlobalVariable {
  std::string name;
  Space space;
  std::vector<uint8_t> storage;  ///< over-allocated to satisfy the alignment
  uint64_t address = 0;
  uint64_t bytes = 0;
};

struct Module {
  std::string target;  ///< "sm_90a"
  std::map<std::string, std::unique_ptr<Function>> functions;
  std::map<std::string, std::unique_ptr<GlobalVariable>> globals;

  /// The named kernel, ready to run. Throws Error where it is absent or not supported.
  const Function& kernel(const std::string& name) const;
};

/// Parses PTX text. Throws Error with the line for text that is not PTX as this parser knows it; a
/// kernel with an unsupported instruction is kept with its message, since the others of the module
/// can be run.
std::unique_ptr<Module> parse(const std::string& text);

/// Calls f(slot) for every slot that the instruction reads as a value.
template <class F>
void for_each_source(const Function& function, const Instruction& i, F f) {
  for (uint32_t slot : {i.a, i.b, i.c, i.d}) f(slot);
  for (const List& list : {i.list_a, i.list_b, i.list_c}) {
    for (uint32_t n = 0; n < list.count; n++) f(function.lists[list.first + n]);
  }
}

/// The same for every slot that it writes.
template <class F>
void for_each_result(const Function& function, const Instruction& i, F f) {
  f(i.target);
  for (uint32_t n = 0; n < i.list.count; n++) f(function.lists[i.list.first + n]);
}

/// Lets registers whose lives do not meet share a slot. Compilers give every value a register of
/// its own; a warp's file of them would be megabytes. Presets keep theirs: they come first, in
/// slots below `first_register`.
void assign_slots(Function& function, uint32_t first_register);

}  // namespace emu
