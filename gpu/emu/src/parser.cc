// PTX text to a Module: declarations, scopes and names. What instructions mean is their decoders'
// matter.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>

#include "module.h"
#include "statement.h"

namespace emu {
namespace {

bool is_name_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
         c == '.';
}

uint64_t round_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

/// Replaces comments by blanks, so that places and lines stay what they are.
std::string without_comments(std::string text) {
  size_t i = 0;
  auto blank = [&](size_t end) {
    for (; i < end; i++) {
      if (text[i] != '\n') text[i] = ' ';
    }
  };
  while (i < text.size()) {
    if (text[i] == '"') {
      size_t end = text.find('"', i + 1);
      i = end == std::string::npos ? text.size() : end + 1;
    } else if (text.compare(i, 2, "//") == 0) {
      blank(std::min(text.find('\n', i), text.size()));
    } else if (text.compare(i, 2, "/*") == 0) {
      size_t end = text.find("*/", i + 2);
      blank(end == std::string::npos ? text.size() : end + 2);
    } else {
      i++;
    }
  }
  return text;
}

const std::unordered_map<std::string_view, Special>& specials() {
  static const std::unordered_map<std::string_view, Special> table = {
      {"%tid.x", Special::TidX},
      {"%tid.y", Special::TidY},
      {"%tid.z", Special::TidZ},
      {"%ntid.x", Special::NTidX},
      {"%ntid.y", Special::NTidY},
      {"%ntid.z", Special::NTidZ},
      {"%ctaid.x", Special::CtaX},
      {"%ctaid.y", Special::CtaY},
      {"%ctaid.z", Special::CtaZ},
      {"%nctaid.x", Special::NCtaX},
      {"%nctaid.y", Special::NCtaY},
      {"%nctaid.z", Special::NCtaZ},
      {"%laneid", Special::Lane},
      {"%warpid", Special::WarpId},
      {"%nwarpid", Special::NWarpId},
      {"%smid", Special::SmId},
      {"%nsmid", Special::NSmId},
      {"%gridid", Special::GridId},
      {"%envreg1", Special::EnvReg1},
      {"%envreg2", Special::EnvReg2},
      {"%dynamic_smem_size", Special::DynamicShared},
      {"%total_smem_size", Special::TotalShared},
      {"%lanemask_eq", Special::LanesEq},
      {"%lanemask_lt", Special::LanesLt},
      {"%lanemask_le", Special::LanesLe},
      {"%lanemask_gt", Special::LanesGt},
      {"%lanemask_ge", Special::LanesGe},
      {"%cluster_ctarank", Special::Zero},
      {"%cluster_nctarank", Special::One},
      {"%cluster_ctaid.x", Special::Zero},
      {"%cluster_ctaid.y", Special::Zero},
      {"%cluster_ctaid.z", Special::Zero},
      {"%cluster_nctaid.x", Special::One},
      {"%cluster_nctaid.y", Special::One},
      {"%cluster_nctaid.z", Special::One},
      {"%clusterid.x", Special::CtaX},
      {"%clusterid.y", Special::CtaY},
      {"%clusterid.z", Special::CtaZ},
      {"%nclusterid.x", Special::NCtaX},
      {"%nclusterid.y", Special::NCtaY},
      {"%nclusterid.z", Special::NCtaZ},
  };
  return table;
}

constexpr uint32_t kPresetBit = 1u << 31;

/// A variable's declaration: ".align 16 .b8 name[64] = {…}".
struct Declaration {
  Type type = Type::None;
  uint64_t alignment = 0;
  std::string name;
  uint64_t elements = 1;
  bool unsized = false;
  std::string initializer;

  uint64_t bytes() const { return elements * bytes_of(type); }
};

class Parser final : public Names {
 public:
  explicit Parser(const std::string& text) : text_(without_comments(text)), module_(new Module) {
    for (size_t i = 0; i < text_.size(); i++) {
      if (text_[i] == '\n') newlines_.push_back(i);
    }
  }

  std::unique_ptr<Module> parse() {
    while (skip_blanks()) top_level();
    for (const auto& [variable, offset, symbol] : address_initializers_) {
      auto it = module_->globals.find(symbol);
      if (it == module_->globals.end()) fail("initializer names unknown " + symbol);
      std::memcpy(reinterpret_cast<void*>(variable->address + offset), &it->second->address, 8);
    }
    return std::move(module_);
  }

  // Names, for decoders.
  uint32_t value(std::string_view text, Type type) override;
  uint32_t target(std::string_view text) override;
  uint32_t predicate(std::string_view text) override;
  uint32_t target_predicate(std::string_view text) override;
  bool is_predicate(std::string_view text) override {
    auto found = find_register(text);
    return found && found->predicate;
  }
  int64_t label(std::string_view text) override {
    mentions_.push_back({std::string(text), scopes_.back().id});
    return static_cast<int64_t>(mentions_.size()) - 1;
  }
  Space space_of(std::string_view text) override;
  Function& function() override { return *function_; }

 private:
  struct Register {
    uint32_t first = 0;  ///< id, of number 0 for a family
    uint32_t count = 0;  ///< of a family %r<count>; 0 for a single name
    bool predicate = false;
  };
  struct Scope {
    uint32_t id;
    std::unordered_map<std::string, Register> registers;
    std::unordered_map<std::string, Register> families;
  };
  struct Symbol {
    Space space;
    uint64_t address;
    bool dynamic;
  };
  struct Mention {
    std::string label;
    uint32_t scope;
  };

  [[noreturn]] void fail(const std::string& what) const {
    throw Error("PTX line " + std::to_string(line()) + ": " + what);
  }
  uint32_t line() const {
    auto it = std::lower_bound(newlines_.begin(), newlines_.end(), statement_);
    return static_cast<uint32_t>(it - newlines_.begin()) + 1;
  }

  bool skip_blanks() {
    while (at_ < text_.size() &&
           (std::isspace(static_cast<unsigned char>(text_[at_])) || text_[at_] == ';'))
      at_++;
    statement_ = at_;
    return at_ < text_.size();
  }
  bool starts(std::string_view word) const {
    if (text_.compare(at_, word.size(), word) != 0) return false;
    return at_ + word.size() >= text_.size() || !is_name_character(text_[at_ + word.size()]);
  }
  std::string_view until(char end) {
    size_t stop = text_.find(end, at_);
    if (stop == std::string::npos) fail(std::string("no '") + end + "' follows");
    std::string_view part(text_.data() + at_, stop - at_);
    at_ = stop + 1;
    return part;
  }
  void skip_line() { at_ = std::min(text_.find('\n', at_), text_.size()); }
  void skip_braces();
  static std::vector<std::string> words(std::string_view text);

  void top_level();
  void entry(std::string_view head);
  void body();
  void directive_of_entry(std::string_view head);
  void registers(std::string_view statement);
  Declaration declaration(std::vector<std::string> words, std::string_view text);
  void variable(std::string_view statement);
  void initialize(GlobalVariable& variable, const Declaration& declared);
  void instruction(std::string_view statement);
  void resolve_labels();
  void finish_presets(uint32_t values);
  std::optional<Register> find_register(std::string_view name) const;
  uint32_t preset(Preset::Kind kind, uint64_t value);
  std::optional<uint64_t> literal(std::string_view text, Type type);
  const Symbol* symbol(std::string_view name);

  std::string text_;
  size_t at_ = 0;
  size_t statement_ = 0;
  std::vector<size_t> newlines_;
  std::unique_ptr<Module> module_;
  std::vector<std::tuple<GlobalVariable*, uint64_t, std::string>> address_initializers_;
  Decoders decoders_;
  /// .shared variables of module scope: a function that names one gets a place for it.
  std::map<std::string, Declaration> module_shared_;

  Function* function_ = nullptr;
  std::vector<Scope> scopes_;
  std::vector<uint32_t> scope_parents_;
  std::map<std::string, Symbol, std::less<>> symbols_;
  std::vector<Mention> mentions_;
  std::map<std::pair<uint32_t, std::string>, size_t> labels_;
  std::map<std::pair<int, uint64_t>, uint32_t> preset_ids_;
  uint32_t value_ids_ = 0;
};

void Parser::skip_braces() {
  until('{');
  for (int depth = 1; depth > 0; at_++) {
    if (at_ >= text_.size()) fail("a brace is not closed");
    if (text_[at_] == '{') depth++;
    if (text_[at_] == '}') depth--;
  }
}

std::vector<std::string> Parser::words(std::string_view text) {
  std::vector<std::string> result;
  size_t i = 0;
  while (i < text.size()) {
    if (std::isspace(static_cast<unsigned char>(text[i])) || text[i] == ',') {
      i++;
      continue;
    }
    size_t end = i;
    while (end < text.size() && !std::isspace(static_cast<unsigned char>(text[end])) &&
           text[end] != ',')
      end++;
    result.emplace_back(text.substr(i, end - i));
    i = end;
  }
  return result;
}

void Parser::top_level() {
  if (starts(".target")) {
    auto list = words(until('\n'));
    if (list.size() < 2) fail(".target names nothing");
    module_->target = list[1];
  } else if (starts(".address_size")) {
    if (words(until('\n')).back() != "64") fail("only .address_size 64 is supported");
  } else if (starts(".version") || starts(".file") || starts(".loc")) {
    skip_line();
  } else if (starts(".section")) {
    skip_braces();
  } else if (starts(".pragma") || starts(".alias")) {
    until(';');
  } else {
    size_t end = text_.find_first_of(";{=", at_);
    if (end == std::string::npos) fail("unfinished text");
    std::string_view head(text_.data() + at_, end - at_);
    bool is_entry = head.find(".entry") != std::string_view::npos;
    bool is_function = head.find(".func") != std::string_view::npos;
    if (!is_entry && !is_function) {
      variable(until(';'));
    } else if (text_[end] == ';') {
      at_ = end + 1;
    } else if (is_function) {
      skip_braces();
    } else {
      at_ = end + 1;
      entry(head);
    }
  }
}

void Parser::entry(std::string_view head) {
  size_t begin = head.find(".entry") + 6;
  size_t open = head.find('(', begin);
  auto name = words(head.substr(begin, open - begin));
  if (name.empty()) fail("an entry without a name");
  // Directives may follow the name or the parameters.
  auto owned = std::make_unique<Function>();
  function_ = owned.get();
  function_->name = name[0];
  scopes_.assign(1, Scope{0, {}, {}});
  scope_parents_.assign(1, 0);
  symbols_.clear();
  mentions_.clear();
  labels_.clear();
  preset_ids_.clear();
  value_ids_ = 1;
  function_->predicates = kFirstPredicate;
  if (open != std::string_view::npos) {
    size_t close = head.find(')', open);
    std::string_view list = head.substr(open + 1, close - open - 1);
    while (!list.empty()) {
      size_t comma = std::min(list.find(','), list.size());
      auto tokens = words(list.substr(0, comma));
      list.remove_prefix(std::min(comma + 1, list.size()));
      if (tokens.empty()) continue;
      // ".ptr .global .align 8" speaks of what the pointer points to.
      auto pointer = std::find(tokens.begin(), tokens.end(), ".ptr");
      if (pointer != tokens.end()) tokens.erase(pointer, tokens.end() - 1);
      tokens.erase(std::remove(tokens.begin(), tokens.end(), ".param"), tokens.end());
      Declaration declared = declaration(tokens, {});
      uint32_t offset =
          static_cast<uint32_t>(round_up(function_->parameter_bytes, declared.alignment));
      function_->parameters.push_back(
          {declared.name, offset, static_cast<uint32_t>(declared.bytes())});
      function_->parameter_bytes = offset + static_cast<uint32_t>(declared.bytes());
      symbols_[declared.name] = {Space::Param, offset, false};
    }
    directive_of_entry(head.substr(close + 1));
  }
  body();
  module_->functions[function_->name] = std::move(owned);
  function_ = nullptr;
}

void Parser::directive_of_entry(std::string_view text) {
  auto list = words(text);
  for (size_t i = 0; i < list.size(); i++) {
    bool bound = list[i] == ".maxntid" || list[i] == ".reqntid";
    bool cluster = list[i] == ".reqnctapercluster";
    if (!bound && !cluster) continue;
    uint32_t product = 1;
    for (i++; i < list.size() && std::isdigit(static_cast<unsigned char>(list[i][0])); i++) {
      product *= static_cast<uint32_t>(std::strtoul(list[i].c_str(), nullptr, 10));
    }
    i--;
    if (bound) function_->max_threads = product;
    if (cluster && product != 1)
      function_->unsupported = "not supported: clusters of more than one block";
  }
}

void Parser::body() {
  uint32_t depth = 1;
  while (depth > 0) {
    if (!skip_blanks()) fail("a function is not closed");
    char c = text_[at_];
    if (c == '{') {
      scope_parents_.push_back(scopes_.back().id);
      scopes_.push_back({static_cast<uint32_t>(scope_parents_.size()) - 1, {}, {}});
      depth++;
      at_++;
    } else if (c == '}') {
      scopes_.pop_back();
      depth--;
      at_++;
    } else if (starts(".loc")) {
      skip_line();
    } else if (starts(".pragma")) {
      until(';');
    } else {
      size_t end = at_;
      while (end < text_.size() && is_name_character(text_[end])) end++;
      size_t colon = text_.find_first_not_of(" \t\n", end);
      bool is_label = end > at_ && text_[colon] == ':' && text_[colon + 1] != ':';
      if (is_label) {
        labels_[{scopes_.back().id, text_.substr(at_, end - at_)}] = function_->code.size();
        at_ = colon + 1;
        continue;
      }
      std::string_view statement = until(';');
      if (statement.substr(0, 4) == ".reg") {
        registers(statement.substr(4));
      } else if (statement[0] == '.') {
        variable(statement);
      } else {
        instruction(statement);
      }
    }
  }
  resolve_labels();
  finish_presets(value_ids_);
}

void Parser::registers(std::string_view statement) {
  auto list = words(statement);
  if (list.empty()) fail("an empty .reg");
  Type type = type_named(std::string_view(list[0]).substr(1));
  if (type == Type::None || bytes_of(type) > 8)
    fail("registers of type " + list[0] + " are not supported");
  for (size_t i = 1; i < list.size(); i++) {
    size_t open = list[i].find('<');
    std::string name = list[i].substr(0, open);
    uint32_t count =
        open == std::string::npos
            ? 0
            : static_cast<uint32_t>(std::strtoul(list[i].c_str() + open + 1, nullptr, 10));
    Register added;
    added.predicate = type == Type::Pred;
    added.count = count;
    uint32_t& ids = added.predicate ? function_->predicates : value_ids_;
    added.first = ids;
    ids += std::max(count, 1u);
    (count > 0 ? scopes_.back().families : scopes_.back().registers)[name] = added;
  }
}

Declaration Parser::declaration(std::vector<std::string> list, std::string_view initializer) {
  Declaration declared;
  declared.initializer = initializer;
  for (size_t i = 0; i < list.size(); i++) {
    if (list[i] == ".align" && i + 1 < list.size()) {
      declared.alignment = std::strtoull(list[++i].c_str(), nullptr, 10);
    } else if (list[i][0] == '.') {
      Type type = type_named(std::string_view(list[i]).substr(1));
      if (type != Type::None) declared.type = type;
    } else {
      declared.name = list[i];
      size_t open = declared.name.find('[');
      if (open == std::string::npos) continue;
      std::string sizes = declared.name.substr(open);
      declared.name.resize(open);
      for (size_t at = 0; at < sizes.size(); at = sizes.find('[', at + 1)) {
        declared.unsized |= sizes[at + 1] == ']';
        declared.elements *= std::strtoull(sizes.c_str() + at + 1, nullptr, 10);
        if (sizes.find('[', at + 1) == std::string::npos) break;
      }
    }
  }
  if (declared.type == Type::None || declared.name.empty())
    fail("a declaration without type or name");
  if (declared.alignment == 0) declared.alignment = bytes_of(declared.type);
  return declared;
}

void Parser::variable(std::string_view statement) {
  size_t equals = statement.find('=');
  std::string_view initializer =
      equals == std::string_view::npos ? std::string_view{} : statement.substr(equals + 1);
  auto list = words(statement.substr(0, equals));
  Declaration declared = declaration(list, initializer);
  auto has = [&](const char* word) {
    return std::find(list.begin(), list.end(), word) != list.end();
  };
  if (has(".shared")) {
    if (function_ == nullptr) {
      module_shared_[declared.name] = declared;
      return;
    }
    uint64_t offset = round_up(function_->shared_bytes, declared.alignment);
    function_->shared_bytes = static_cast<uint32_t>(offset + declared.bytes());
    symbols_[declared.name] = {Space::Shared, offset, false};
  } else if (has(".local") || (has(".param") && function_ != nullptr)) {
    // Parameters of calls live like locals: calls to the few known functions read them there.
    uint64_t offset = round_up(function_->local_bytes, declared.alignment);
    function_->local_bytes = static_cast<uint32_t>(offset + declared.bytes());
    symbols_[declared.name] = {Space::Local, offset, false};
  } else if (has(".global") || has(".const")) {
    if (has(".extern")) fail("the external variable " + declared.name + " is not supported");
    auto added = std::make_unique<GlobalVariable>();
    added->name = declared.name;
    added->space = has(".const") ? Space::Const : Space::Global;
    added->bytes = declared.bytes();
    uint64_t alignment = std::max<uint64_t>(declared.alignment, 16);
    added->storage.assign(added->bytes + alignment, 0);
    added->address = round_up(reinterpret_cast<uint64_t>(added->storage.data()), alignment);
    initialize(*added, declared);
    module_->globals[declared.name] = std::move(added);
  } else {
    fail("a declaration that is not known: " + std::string(statement));
  }
}

void Parser::initialize(GlobalVariable& variable, const Declaration& declared) {
  std::string text = declared.initializer;
  if (text.empty()) return;
  if (text.find('"') != std::string::npos) fail("initializers by strings are not supported");
  for (char& c : text) {
    if (c == '{' || c == '}') c = ' ';
  }
  uint64_t offset = 0;
  unsigned bytes = bytes_of(declared.type);
  for (const std::string& word : words(text)) {
    if (offset + bytes > variable.bytes) fail("too many initial values for " + declared.name);
    std::string name = word;
    if (name.rfind("generic(", 0) == 0) name = name.substr(8, name.size() - 9);
    if (auto number = literal(name, declared.type)) {
      std::memcpy(reinterpret_cast<void*>(variable.address + offset), &*number, bytes);
    } else if (bytes == 8) {
      address_initializers_.emplace_back(&variable, offset, name);
    } else {
      fail("initial value " + word + " is not understood");
    }
    offset += bytes;
  }
}

void Parser::instruction(std::string_view statement) {
  Instruction added;
  added.line = line();
  try {
    if (statement[0] == '@') {
      size_t end = statement.find_first_of(" \t\n");
      std::string_view guard = statement.substr(1, end - 1);
      added.guard_negated = guard[0] == '!';
      added.guard = predicate(added.guard_negated ? guard.substr(1) : guard);
      statement.remove_prefix(end);
    }
    Statement reader(statement, *this);
    Decoder decoder = decoders_.find(reader.name());
    if (decoder == nullptr) reader.unsupported("instruction " + reader.name());
    decoder(reader, added);
    reader.finish();
    function_->code.push_back(added);
  } catch (const Unsupported& error) {
    if (function_->unsupported.empty()) {
      function_->unsupported = "PTX line " + std::to_string(line()) + ": " + error.what();
    }
  }
}

void Parser::resolve_labels() {
  for (Instruction& instruction : function_->code) {
    if (!instruction.branch) continue;
    const Mention& mention = mentions_[static_cast<size_t>(instruction.offset)];
    uint32_t scope = mention.scope;
    for (;;) {
      auto it = labels_.find({scope, mention.label});
      if (it != labels_.end()) {
        instruction.offset = static_cast<int64_t>(it->second);
        break;
      }
      if (scope == 0) {
        throw Error("PTX line " + std::to_string(instruction.line) + ": no label " + mention.label);
      }
      scope = scope_parents_[scope];
    }
  }
}

/// While the text is read a preset's id is its place with the highest bit set. Here presets get the
/// slots from 1 on, and registers follow.
void Parser::finish_presets(uint32_t values) {
  Function& f = *function_;
  uint32_t presets = static_cast<uint32_t>(f.presets.size());
  auto moved = [&](uint32_t& id) {
    if (id & kPresetBit) {
      id = 1 + (id & ~kPresetBit);
    } else if (id != kNoSlot) {
      id += presets;
    }
  };
  for (Instruction& i : f.code) {
    for (uint32_t* id : {&i.target, &i.a, &i.b, &i.c, &i.d}) moved(*id);
  }
  for (uint32_t& id : f.lists) moved(id);
  for (uint32_t i = 0; i < presets; i++) f.presets[i].slot = 1 + i;
  f.slots = values + presets;
  assign_slots(f, 1 + presets);
}

std::optional<Parser::Register> Parser::find_register(std::string_view text) const {
  std::string name(text);
  size_t digits = name.size();
  while (digits > 0 && std::isdigit(static_cast<unsigned char>(name[digits - 1]))) digits--;
  std::string family = name.substr(0, digits);
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    auto single = scope->registers.find(name);
    if (single != scope->registers.end()) return single->second;
    auto member = scope->families.find(family);
    if (member == scope->families.end() || digits == name.size()) continue;
    uint32_t number = static_cast<uint32_t>(std::strtoul(name.c_str() + digits, nullptr, 10));
    if (number >= member->second.count) continue;
    return Register{member->second.first + number, 0, member->second.predicate};
  }
  return std::nullopt;
}

uint32_t Parser::preset(Preset::Kind kind, uint64_t value) {
  auto [it, is_new] = preset_ids_.try_emplace({kind, value}, 0);
  if (is_new) {
    it->second = kPresetBit | static_cast<uint32_t>(function_->presets.size());
    function_->presets.push_back({0, kind, value});
  }
  return it->second;
}

std::optional<uint64_t> Parser::literal(std::string_view view, Type type) {
  std::string text(view);
  if (text == "WARP_SZ") return kLanes;
  if (text.size() == 10 && text[0] == '0' && (text[1] == 'f' || text[1] == 'F')) {
    auto bits = static_cast<uint32_t>(std::strtoul(text.c_str() + 2, nullptr, 16));
    return type == Type::F64 ? put<double>(bit_cast<float>(bits)) : bits;
  }
  if (text.size() == 18 && text[0] == '0' && (text[1] == 'd' || text[1] == 'D')) {
    uint64_t bits = std::strtoull(text.c_str() + 2, nullptr, 16);
    return type == Type::F32 ? put<float>(static_cast<float>(bit_cast<double>(bits))) : bits;
  }
  size_t first = text[0] == '-' || text[0] == '+' ? 1 : 0;
  if (first >= text.size() || !std::isdigit(static_cast<unsigned char>(text[first])))
    return std::nullopt;
  bool hexadecimal = text.compare(first, 2, "0x") == 0 || text.compare(first, 2, "0X") == 0;
  char* end = nullptr;
  if (!hexadecimal && text.find_first_of(".eE") != std::string::npos) {
    double number = std::strtod(text.c_str(), &end);
    if (*end != 0) return std::nullopt;
    return type == Type::F64 ? put<double>(number) : put<float>(static_cast<float>(number));
  }
  uint64_t number = std::strtoull(text.c_str() + first, &end, 0);
  if (*end == 'U') end++;
  if (*end != 0) return std::nullopt;
  return text[0] == '-' ? 0 - number : number;
}

const Parser::Symbol* Parser::symbol(std::string_view name) {
  auto it = symbols_.find(name);
  if (it != symbols_.end()) return &it->second;
  auto shared = module_shared_.find(std::string(name));
  if (shared != module_shared_.end()) {
    const Declaration& declared = shared->second;
    Symbol added{Space::Shared, 0, declared.unsized};
    if (declared.unsized) {
      function_->shared_alignment =
          std::max(function_->shared_alignment, static_cast<uint32_t>(declared.alignment));
    } else {
      added.address = round_up(function_->shared_bytes, declared.alignment);
      function_->shared_bytes = static_cast<uint32_t>(added.address + declared.bytes());
    }
    return &(symbols_[std::string(name)] = added);
  }
  auto global = module_->globals.find(std::string(name));
  if (global != module_->globals.end()) {
    return &(symbols_[std::string(name)] = {global->second->space, global->second->address, false});
  }
  return nullptr;
}

Space Parser::space_of(std::string_view text) {
  const Symbol* found = symbol(text);
  return found == nullptr ? Space::Generic : found->space;
}

uint32_t Parser::value(std::string_view text, Type type) {
  if (auto found = find_register(text)) {
    if (found->predicate)
      throw Unsupported("not supported: predicate " + std::string(text) + " as a value");
    return found->first;
  }
  if (auto number = literal(text, type)) return preset(Preset::Constant, *number);
  auto special = specials().find(text);
  if (special != specials().end()) {
    return preset(Preset::SpecialRegister, static_cast<uint64_t>(special->second));
  }
  size_t plus = text.find('+');
  uint64_t addend = 0;
  if (plus != std::string_view::npos) {
    addend = literal(text.substr(plus + 1), Type::U64).value_or(0);
    text = text.substr(0, plus);
  }
  const Symbol* found = symbol(text);
  if (found == nullptr) throw Unsupported("not supported: operand " + std::string(text));
  if (found->dynamic) return preset(Preset::DynamicSharedAddress, addend);
  if (found->space == Space::Shared) return preset(Preset::SharedAddress, found->address + addend);
  return preset(Preset::Constant, found->address + addend);
}

uint32_t Parser::target(std::string_view text) {
  if (text == "_") return kNoSlot;
  auto found = find_register(text);
  if (!found || found->predicate) {
    throw Unsupported("not supported: result in " + std::string(text));
  }
  return found->first;
}

uint32_t Parser::predicate(std::string_view text) {
  auto found = find_register(text);
  if (found && found->predicate) return found->first;
  if (!found) {
    if (auto number = literal(text, Type::Pred)) return *number != 0 ? kAlways : kNever;
  }
  throw Unsupported("not supported: " + std::string(text) + " as a predicate");
}

uint32_t Parser::target_predicate(std::string_view text) {
  if (text == "_") return kNoPredicate;
  auto found = find_register(text);
  if (!found || !found->predicate) {
    throw Unsupported("not supported: predicate result in " + std::string(text));
  }
  return found->first;
}

}  // namespace

std::unique_ptr<Module> parse(const std::string& text) { return Parser(text).parse(); }

const Function& Module::kernel(const std::string& name) const {
  auto it = functions.find(name);
  if (it == functions.end()) throw Error("no kernel " + name + " in the module");
  if (!it->second->unsupported.empty())
    throw Error(it->second->unsupported + " (kernel " + name + ")");
  return *it->second;
}

}  // namespace emu
