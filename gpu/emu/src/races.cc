#include "races.h"

#include <algorithm>

namespace emu {

void RaceDetector::reset(uint32_t bytes, unsigned warps) {
  warps_ = warps;
  size_t units = (bytes + kUnit - 1) / kUnit + 1;
  cells_.assign(units, Cell{0, 0, 0, 0});
  reads_.assign(units * warps, 0);
  bytes_of_.assign(units, 0);
}

void RaceDetector::split(uint32_t unit) {
  bytes_of_[unit] = static_cast<uint32_t>(cells_.size());
  cells_.resize(cells_.size() + kUnit, cells_[unit]);
  for (uint32_t i = 0; i < kUnit; i++) {
    size_t from = static_cast<size_t>(unit) * warps_;
    for (unsigned w = 0; w < warps_; w++) reads_.push_back(reads_[from + w]);
  }
}

template <bool Write>
bool RaceDetector::touch(size_t cell, unsigned warp, const Clock& now, uint32_t line,
                         Conflict& conflict) {
  Cell& c = cells_[cell];
  uint32_t* reads = &reads_[cell * warps_];
  if (c.write_warp != warp && c.write_clock > now[c.write_warp]) {
    conflict = {true, true, c.write_warp, c.write_line, 0};
  } else if (Write) {
    for (unsigned w = 0; w < warps_; w++) {
      if (reads[w] > now[w] && w != warp) conflict = {true, false, w, c.read_line, 0};
    }
  }
  if (Write) {
    c.write_clock = now[warp];
    c.write_line = line;
    c.write_warp = static_cast<uint8_t>(warp);
  } else {
    reads[warp] = now[warp];
    c.read_line = line;
  }
  return conflict.found;
}

template <bool Write>
Conflict RaceDetector::access(unsigned warp, const Clock& now, uint32_t address, uint32_t bytes,
                              uint32_t line) {
  Conflict conflict;
  uint32_t end = address + bytes;
  for (uint32_t at = address; at < end && !conflict.found;) {
    uint32_t unit = at / kUnit;
    uint32_t stop = std::min(end, (unit + 1) * kUnit);
    bool whole = stop - at == kUnit;
    if (!whole && bytes_of_[unit] == 0) split(unit);
    if (bytes_of_[unit] == 0) {
      if (touch<Write>(unit, warp, now, line, conflict)) conflict.address = at;
    } else {
      for (; at < stop; at++) {
        if (touch<Write>(bytes_of_[unit] + at % kUnit, warp, now, line, conflict)) {
          conflict.address = at;
          break;
        }
      }
    }
    at = stop;
  }
  return conflict;
}

Conflict RaceDetector::read(unsigned warp, const Clock& now, uint32_t address, uint32_t bytes,
                            uint32_t line) {
  return access<false>(warp, now, address, bytes, line);
}

Conflict RaceDetector::write(unsigned warp, const Clock& now, uint32_t address, uint32_t bytes,
                             uint32_t line) {
  return access<true>(warp, now, address, bytes, line);
}

}  // namespace emu
