// The CUDA kernels on this machine's device, against float64 on the CPU.
#pragma once

#include <string>
#include <vector>

namespace hybridseek {

struct SelftestResult {
  std::string name;
  double error, bound;   // relative to the largest magnitude of what is right
  double microseconds;   // of one run with sizes of a real model; 0: not timed
  double least;          // what the device's memory alone takes for it; 0: not known
};

// Throws if there is no device. `timed` also runs sizes of DeepSeek-V2-Lite, which takes about 2 GB.
std::vector<SelftestResult> cuda_selftest(bool timed);

}  // namespace hybridseek
