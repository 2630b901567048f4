// Races in a block's shared memory, found by vector clocks.
//
// Every warp counts its own releases (barriers it arrived at, mbarriers, atomics) and knows of each
// other warp the count up to which it has synchronised with it. Two accesses of different warps to
// one byte, one of them a write, race unless the later one's warp had synchronised with the earlier
// one's since. Unlike a watch for wrong values this finds a missing barrier in whatever order the
// warps happened to run.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "types.h"

namespace emu {

constexpr unsigned kMaxWarps = 32;

using Clock = std::array<uint32_t, kMaxWarps>;

inline void join(Clock& into, const Clock& other) {
  for (unsigned w = 0; w < kMaxWarps; w++) into[w] = into[w] > other[w] ? into[w] : other[w];
}

struct Conflict {
  bool found = false;
  bool earlier_was_write = false;
  unsigned warp = 0;
  uint32_t line = 0;
  uint32_t address = 0;
};

class RaceDetector {
 public:
  void reset(uint32_t bytes, unsigned warps);

  /// Records an access of a warp, whose clock is `now`, and says which earlier one it races with.
  Conflict read(unsigned warp, const Clock& now, uint32_t address, uint32_t bytes, uint32_t line);
  Conflict write(unsigned warp, const Clock& now, uint32_t address, uint32_t bytes, uint32_t line);

 private:
  /// What is known of 16 bytes, or of one byte of those that were ever accessed in part.
  struct Cell {
    uint32_t write_clock;
    uint32_t write_line;
    uint32_t read_line;
    uint8_t write_warp;
  };
  static constexpr uint32_t kUnit = 16;

  template <bool Write>
  Conflict access(unsigned warp, const Clock& now, uint32_t address, uint32_t bytes, uint32_t line);
  template <bool Write>
  bool touch(size_t cell, unsigned warp, const Clock& now, uint32_t line, Conflict& conflict);
  void split(uint32_t unit);

  unsigned warps_ = 0;
  std::vector<Cell> cells_;
  std::vector<uint32_t> reads_;     ///< [cell][warp]: the warp's clock at its last read
  std::vector<uint32_t> bytes_of_;  ///< unit → first of its 16 byte cells; 0 if it was not split
};

}  // namespace emu
