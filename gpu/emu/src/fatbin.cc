#include "fatbin.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "types.h"

namespace emu {
namespace {

// The layout is not documented by its maker; these are the fields that are read here.
struct Header {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;
  uint64_t bytes;  ///< of what follows
};
struct Entry {
  uint16_t kind;
  uint16_t version;
  uint32_t header_bytes;
  uint64_t payload_bytes;
  uint32_t compressed_bytes;
};
constexpr uint32_t kMagic = 0xba55ed50;
constexpr uint16_t kPtx = 1;

}  // namespace

bool Architecture::runs(const Architecture& other) const {
  if (other.suffix == 'a') return suffix == 'a' && number == other.number;
  if (other.suffix == 'f') return number / 10 == other.number / 10 && number >= other.number;
  return number >= other.number;
}

Architecture architecture_named(const std::string& name) {
  Architecture result;
  size_t digits = name.find_first_of("0123456789");
  if (digits == std::string::npos) throw Error("\"" + name + "\" is no architecture like sm_80");
  char* end = nullptr;
  result.number = static_cast<int>(std::strtol(name.c_str() + digits, &end, 10));
  if (*end == 'a' || *end == 'f') result.suffix = *end;
  return result;
}

Architecture target_of(const std::string& ptx) {
  size_t at = ptx.find(".target");
  if (at == std::string::npos) throw Error("a PTX text without .target");
  size_t begin = ptx.find("sm_", at);
  return architecture_named(ptx.substr(begin, ptx.find_first_of(", \n", begin) - begin));
}

std::vector<std::string> ptx_of_fat_binary(const void* data) {
  Header header;
  std::memcpy(&header, data, sizeof header);
  if (header.magic != kMagic) throw Error("not a fat binary");
  const char* at = static_cast<const char*>(data) + header.header_bytes;
  const char* end = at + header.bytes;
  std::vector<std::string> texts;
  while (at + sizeof(Entry) <= end) {
    Entry entry;
    std::memcpy(&entry, at, sizeof entry);
    if (entry.header_bytes == 0) break;
    if (entry.kind == kPtx) {
      if (entry.compressed_bytes != 0) {
        throw Error("the fat binary's PTX is compressed: compile with nvcc --no-compress");
      }
      std::string text(at + entry.header_bytes, entry.payload_bytes);
      text.resize(std::strlen(text.c_str()));  // padded with zeros
      texts.push_back(text);
    }
    at += entry.header_bytes + entry.payload_bytes;
  }
  return texts;
}

const std::string* choose_ptx(const std::vector<std::string>& texts, const Architecture& device) {
  const std::string* best = nullptr;
  Architecture best_target;
  for (const std::string& text : texts) {
    Architecture target = target_of(text);
    bool later = best == nullptr || target.number > best_target.number ||
                 (target.number == best_target.number && target.suffix > best_target.suffix);
    if (device.runs(target) && later) {
      best = &text;
      best_target = target;
    }
  }
  return best;
}

}  // namespace emu
