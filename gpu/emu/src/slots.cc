// Which slot a register gets: liveness over the control flow graph, then a linear scan of
// intervals.
#include <algorithm>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "module.h"

namespace emu {
namespace {

class Bits {
 public:
  explicit Bits(size_t size) : words_((size + 63) / 64) {}
  bool test(size_t i) const { return words_[i / 64] >> (i % 64) & 1; }
  void set(size_t i) { words_[i / 64] |= uint64_t{1} << (i % 64); }
  /// this |= (in & ~without); says whether anything was added.
  bool add(const Bits& in, const Bits* without) {
    bool changed = false;
    for (size_t w = 0; w < words_.size(); w++) {
      uint64_t added = in.words_[w] & (without == nullptr ? ~uint64_t{0} : ~without->words_[w]);
      changed |= (added & ~words_[w]) != 0;
      words_[w] |= added;
    }
    return changed;
  }
  template <class F>
  void for_each(F f) const {
    for (size_t w = 0; w < words_.size(); w++) {
      for (uint64_t rest = words_[w]; rest != 0; rest &= rest - 1)
        f(w * 64 + __builtin_ctzll(rest));
    }
  }

 private:
  std::vector<uint64_t> words_;
};

struct BasicBlock {
  BasicBlock(size_t begin, size_t end, size_t registers)
      : begin(begin),
        end(end),
        uses(registers),
        kills(registers),
        live_in(registers),
        live_out(registers) {}
  size_t begin, end;
  std::vector<size_t> successors;
  Bits uses, kills, live_in, live_out;
};

struct Interval {
  size_t begin = SIZE_MAX;
  size_t end = 0;
  void cover(size_t at) {
    begin = std::min(begin, at);
    end = std::max(end, at);
  }
};

std::vector<BasicBlock> basic_blocks(const Function& function, size_t registers) {
  const auto& code = function.code;
  std::vector<bool> leader(code.size() + 1, false);
  leader[0] = true;
  for (size_t at = 0; at < code.size(); at++) {
    if (code[at].branch) leader[static_cast<size_t>(code[at].offset)] = true;
    if (code[at].branch || code[at].leaves) leader[at + 1] = true;
  }
  std::vector<BasicBlock> blocks;
  std::vector<size_t> block_of(code.size() + 1, SIZE_MAX);
  for (size_t at = 0; at < code.size();) {
    size_t end = at + 1;
    while (end < code.size() && !leader[end]) end++;
    block_of[at] = blocks.size();
    blocks.emplace_back(at, end, registers);
    at = end;
  }
  for (size_t b = 0; b < blocks.size(); b++) {
    const Instruction& last = code[blocks[b].end - 1];
    bool always = last.guard == 0;
    if (last.branch && static_cast<size_t>(last.offset) < code.size()) {
      blocks[b].successors.push_back(block_of[static_cast<size_t>(last.offset)]);
    }
    bool falls_through = !((last.branch || last.leaves) && always);
    if (falls_through && b + 1 < blocks.size()) blocks[b].successors.push_back(b + 1);
  }
  return blocks;
}

}  // namespace

void assign_slots(Function& function, uint32_t first_register) {
  auto& code = function.code;
  if (code.empty() || function.slots <= first_register) return;
  size_t registers = function.slots - first_register;
  std::vector<BasicBlock> blocks = basic_blocks(function, registers);
  for (BasicBlock& block : blocks) {
    for (size_t at = block.begin; at < block.end; at++) {
      for_each_source(function, code[at], [&](uint32_t slot) {
        if (slot >= first_register && !block.kills.test(slot - first_register)) {
          block.uses.set(slot - first_register);
        }
      });
      if (code[at].guard != 0) continue;
      for_each_result(function, code[at], [&](uint32_t slot) {
        if (slot >= first_register) block.kills.set(slot - first_register);
      });
    }
    block.live_in = block.uses;
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t b = blocks.size(); b-- > 0;) {
      for (size_t next : blocks[b].successors)
        blocks[b].live_out.add(blocks[next].live_in, nullptr);
      changed |= blocks[b].live_in.add(blocks[b].live_out, &blocks[b].kills);
    }
  }

  std::vector<Interval> intervals(registers);
  for (const BasicBlock& block : blocks) {
    block.live_in.for_each([&](size_t r) { intervals[r].cover(block.begin); });
    block.live_out.for_each([&](size_t r) { intervals[r].cover(block.end); });
    for (size_t at = block.begin; at < block.end; at++) {
      auto cover = [&](uint32_t slot) {
        if (slot >= first_register) intervals[slot - first_register].cover(at);
      };
      for_each_source(function, code[at], cover);
      for_each_result(function, code[at], cover);
    }
  }
  // What a wgmma writes is not free before its wait, even if nobody reads it.
  size_t wait = code.size();
  for (size_t at = code.size(); at-- > 0;) {
    if (code[at].awaits) wait = at;
    if (!code[at].asynchronous) continue;
    for_each_result(function, code[at], [&](uint32_t slot) {
      if (slot >= first_register) intervals[slot - first_register].cover(wait);
    });
  }

  std::vector<size_t> order;
  for (size_t r = 0; r < registers; r++) {
    if (intervals[r].begin != SIZE_MAX) order.push_back(r);
  }
  std::sort(order.begin(), order.end(),
            [&](size_t x, size_t y) { return intervals[x].begin < intervals[y].begin; });
  using Busy = std::pair<size_t, uint32_t>;  // last use, slot
  std::priority_queue<Busy, std::vector<Busy>, std::greater<Busy>> busy;
  std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<uint32_t>> free;
  std::vector<uint32_t> slot_of(registers, kNoSlot);
  uint32_t next = first_register;
  for (size_t r : order) {
    while (!busy.empty() && busy.top().first < intervals[r].begin) {
      free.push(busy.top().second);
      busy.pop();
    }
    if (free.empty()) free.push(next++);
    slot_of[r] = free.top();
    free.pop();
    busy.emplace(intervals[r].end, slot_of[r]);
  }
  auto renamed = [&](uint32_t& slot) {
    if (slot >= first_register) slot = slot_of[slot - first_register];
  };
  for (Instruction& i : code) {
    for (uint32_t* slot : {&i.target, &i.a, &i.b, &i.c, &i.d}) renamed(*slot);
  }
  for (uint32_t& slot : function.lists) renamed(slot);
  function.slots = next;
}

}  // namespace emu
