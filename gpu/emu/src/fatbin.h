// Fat binaries, as nvcc embeds them: where the PTX texts are.
#pragma once

#include <string>
#include <vector>

namespace emu {

/// An architecture as PTX names it: "sm_90a" is {90, 'a'}.
struct Architecture {
  int number = 0;
  char suffix = 0;
  /// Whether a device runs code for `other`: of its own or an earlier architecture, and with a
  /// suffix only of its own.
  bool runs(const Architecture& other) const;
};

Architecture architecture_named(const std::string& name);
/// That of a PTX text's .target.
Architecture target_of(const std::string& ptx);

/// The PTX texts of the fat binary at `data`. Throws Error for compressed ones: nvcc must be called
/// with
/// --no-compress.
std::vector<std::string> ptx_of_fat_binary(const void* data);

/// The text that a device of this architecture would take: the latest it runs. Null if there is
/// none.
const std::string* choose_ptx(const std::vector<std::string>& texts, const Architecture& device);

}  // namespace emu
