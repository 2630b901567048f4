#include "statement.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace emu {
namespace {

std::string_view trimmed(std::string_view text) {
  size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

/// Splits at commas outside of braces, brackets and parentheses.
std::vector<std::string> split_operands(std::string_view text) {
  std::vector<std::string> parts;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); i++) {
    char c = i < text.size() ? text[i] : ',';
    if (c == '{' || c == '[' || c == '(') depth++;
    if (c == '}' || c == ']' || c == ')') depth--;
    if (c == ',' && (depth == 0 || i == text.size())) {
      std::string_view part = trimmed(text.substr(begin, i - begin));
      if (!part.empty()) parts.emplace_back(part);
      begin = i + 1;
    }
  }
  return parts;
}

}  // namespace

Statement::Statement(std::string_view text, Names& names) : text_(trimmed(text)), names_(names) {
  size_t end = text_.find_first_of(" \t\n{");
  std::string head = text_.substr(0, end);
  // "shared::cta" and "L2::128B" are one modifier each.
  size_t begin = 0;
  while (begin <= head.size()) {
    size_t dot = std::min(head.find('.', begin), head.size());
    std::string part = head.substr(begin, dot - begin);
    if (begin == 0) {
      name_ = part;
    } else if (!part.empty()) {
      modifiers_.push_back(part);
    }
    begin = dot + 1;
  }
  if (end != std::string::npos) operands_ = split_operands(std::string_view(text_).substr(end));
}

bool Statement::take(std::string_view modifier) {
  auto it = std::find(modifiers_.begin(), modifiers_.end(), modifier);
  if (it == modifiers_.end()) return false;
  modifiers_.erase(it);
  return true;
}

int Statement::take_one(std::initializer_list<const char*> modifiers) {
  int place = 0;
  for (const char* modifier : modifiers) {
    if (take(modifier)) return place;
    place++;
  }
  return -1;
}

bool Statement::has_type() const {
  return std::any_of(modifiers_.begin(), modifiers_.end(),
                     [](const std::string& name) { return type_named(name) != Type::None; });
}

Type Statement::type() {
  for (auto it = modifiers_.begin(); it != modifiers_.end(); ++it) {
    Type type = type_named(*it);
    if (type == Type::None) continue;
    modifiers_.erase(it);
    return type;
  }
  unsupported("no type");
}

Rounding Statement::rounding() {
  switch (take_one({"rn", "rz", "rm", "rp", "rna"})) {
    case 1:
      return Rounding::Zero;
    case 2:
      return Rounding::Down;
    case 3:
      return Rounding::Up;
    case 4:
      return Rounding::NearestAway;
    default:
      return Rounding::NearestEven;
  }
}

Space Statement::space() {
  // Clusters have one block here, so that the whole cluster's shared memory is the block's.
  switch (take_one({"global", "shared", "shared::cta", "shared::cluster", "local", "const", "param",
                    "param::entry", "param::func"})) {
    case 0:
      return Space::Global;
    case 1:
    case 2:
    case 3:
      return Space::Shared;
    case 4:
      return Space::Local;
    case 5:
      return Space::Const;
    case 6:
    case 7:
    case 8:
      return Space::Param;
    default:
      return Space::Generic;
  }
}

void Statement::take_hints(Instruction& to) {
  while (take_one({"ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "L1::evict_normal",
                   "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate",
                   "L2::64B", "L2::128B", "L2::256B", "L2::evict_last", "L2::evict_normal",
                   "L2::evict_first"}) >= 0) {
  }
  if (take_one({"acquire", "release", "acq_rel", "volatile", "relaxed", "mmio"}) >= 0) {
    to.synchronizes = true;
  }
  take("weak");
  take_one({"cta", "cluster", "gpu", "sys"});
}

void Statement::shape(Instruction& to) {
  for (auto it = modifiers_.begin(); it != modifiers_.end(); ++it) {
    int m = 0, n = 0, k = 0, length = 0;
    if (std::sscanf(it->c_str(), "m%dn%dk%d%n", &m, &n, &k, &length) == 3 &&
        length == static_cast<int>(it->size())) {
      to.m = static_cast<uint16_t>(m);
      to.n = static_cast<uint16_t>(n);
      to.k = static_cast<uint16_t>(k);
      modifiers_.erase(it);
      return;
    }
  }
  unsupported("no shape");
}

std::string_view Statement::operand() {
  if (next_ >= operands_.size()) unsupported("too few operands");
  return operands_[next_++];
}

bool Statement::next_is_vector() const {
  return next_ < operands_.size() && operands_[next_][0] == '{';
}

uint32_t Statement::target() { return names_.target(operand()); }
uint32_t Statement::source(Type type) { return names_.value(operand(), type); }

uint32_t Statement::predicate() { return names_.predicate(operand()); }
uint32_t Statement::target_predicate() { return names_.target_predicate(operand()); }

void Statement::source_predicate(Instruction& to) {
  std::string_view text = operand();
  to.source_negated = text[0] == '!';
  to.source_predicate = names_.predicate(to.source_negated ? trimmed(text.substr(1)) : text);
}

void Statement::target_predicates(Instruction& to) {
  std::string_view text = operand();
  size_t bar = text.find('|');
  to.target_predicate = names_.target_predicate(trimmed(text.substr(0, bar)));
  to.target_predicate2 = bar == std::string_view::npos
                             ? kNoPredicate
                             : names_.target_predicate(trimmed(text.substr(bar + 1)));
}

void Statement::target_and_predicate(Instruction& to) {
  std::string_view text = operand();
  size_t bar = text.find('|');
  to.target = names_.target(trimmed(text.substr(0, bar)));
  to.target_predicate = bar == std::string_view::npos
                            ? kNoPredicate
                            : names_.target_predicate(trimmed(text.substr(bar + 1)));
}

void Statement::address(Instruction& to) { address(to, to.a, to.offset); }

void Statement::address(Instruction& to, uint32_t& slot, int64_t& offset) {
  std::string_view text = operand();
  if (text.size() < 2 || text.front() != '[' || text.back() != ']')
    unsupported("no address: " + std::string(text));
  text = trimmed(text.substr(1, text.size() - 2));
  size_t plus = text.find('+');
  std::string_view base = trimmed(text.substr(0, plus));
  offset = 0;
  if (plus != std::string_view::npos) {
    std::string number(trimmed(text.substr(plus + 1)));
    char* end = nullptr;
    offset = std::strtoll(number.c_str(), &end, 0);
    if (*end != 0) unsupported("address offset " + number);
  }
  // A name says the space; parameters of calls live among the locals.
  Space named = names_.space_of(base);
  if (to.space == Space::Generic || (to.space == Space::Param && named == Space::Local))
    to.space = named;
  slot = names_.value(base, Type::B64);
}

List Statement::list(bool as_targets, Type type) {
  std::string_view text = operand();
  std::vector<std::string> parts;
  if (text.front() == '{') {
    parts = split_operands(text.substr(1, text.size() - 2));
  } else {
    parts.emplace_back(text);
  }
  auto& lists = names_.function().lists;
  List list{static_cast<uint32_t>(lists.size()), static_cast<uint32_t>(parts.size())};
  for (const std::string& part : parts) {
    lists.push_back(as_targets ? names_.target(part) : names_.value(part, type));
  }
  return list;
}

List Statement::targets() { return list(true, Type::None); }
List Statement::sources(Type type) { return list(false, type); }
int64_t Statement::label() { return names_.label(operand()); }

int64_t Statement::number() {
  std::string text(operand());
  char* end = nullptr;
  int64_t value = std::strtoll(text.c_str(), &end, 0);
  if (end == text.c_str() || *end != 0) unsupported("operand " + text + " is not a number");
  return value;
}

void Statement::finish() const {
  if (!modifiers_.empty()) unsupported("modifier ." + modifiers_.front());
  if (next_ != operands_.size()) unsupported("operand " + operands_[next_]);
}

void Statement::unsupported(const std::string& what) const {
  throw Unsupported("not supported: " + what + " in \"" + text_ + "\"");
}

Decoders::Decoders() {
  add_arithmetic(*this);
  add_comparisons(*this);
  add_bits(*this);
  add_conversions(*this);
  add_control(*this);
  add_memory(*this);
  add_warp_collectives(*this);
  add_barriers(*this);
  add_tensor(*this);
}

void Decoders::add(std::initializer_list<const char*> names, Decoder decoder) {
  for (const char* name : names) decoders_.emplace(name, decoder);
}

Decoder Decoders::find(std::string_view name) const {
  auto it = decoders_.find(name);
  return it == decoders_.end() ? nullptr : it->second;
}

}  // namespace emu
