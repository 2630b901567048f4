#include "memory.h"

#include <algorithm>
#include <cstdlib>

namespace emu {
namespace {

/// Freed memory that is kept out of reach of the next allocations.
constexpr uint64_t kQuarantine = 256ull << 20;
constexpr uint64_t kAlignment = 256;

/// Written bytes of `calloc`ed shadow cost no memory until they are touched.
uint8_t* new_shadow(uint64_t bytes) { return static_cast<uint8_t*>(std::calloc(bytes, 1)); }

}  // namespace

DeviceMemory& device_memory() {
  static DeviceMemory* const memory = new DeviceMemory;  // programs use it until their very end
  return *memory;
}

DeviceMemory::~DeviceMemory() {
  while (!allocations_.empty()) forget(allocations_.begin());
}

void* DeviceMemory::allocate(uint64_t bytes, Allocation::Kind kind, const std::string& label) {
  std::lock_guard<std::mutex> lock(mutex_);
  // A gap follows, so that an overrun meets no neighbour.
  uint64_t size = (std::max<uint64_t>(bytes, 1) + 2 * kAlignment - 1) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, size);
  if (memory == nullptr) return nullptr;
  uint64_t address = reinterpret_cast<uint64_t>(memory);
  make_room(address, address + bytes);
  Allocation added{address,
                   bytes,
                   kind,
                   false,
                   label + " #" + std::to_string(++count_),
                   new_shadow(std::max<uint64_t>(bytes, 1))};
  allocations_[address] = added;
  return memory;
}

bool DeviceMemory::release(void* address) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = allocations_.find(reinterpret_cast<uint64_t>(address));
  if (it == allocations_.end() || it->second.freed) return false;
  Allocation::Kind kind = it->second.kind;
  if (kind != Allocation::Kind::Device && kind != Allocation::Kind::Host) return false;
  it->second.freed = true;
  quarantine_.push_back(it->first);
  quarantined_bytes_ += it->second.bytes;
  while (quarantined_bytes_ > kQuarantine) {
    auto oldest = allocations_.find(quarantine_.front());
    quarantine_.erase(quarantine_.begin());
    quarantined_bytes_ -= oldest->second.bytes;
    forget(oldest);
  }
  return true;
}

void DeviceMemory::forget(std::map<uint64_t, Allocation>::iterator it) {
  if (it->second.written != nullptr) {
    std::free(it->second.written);
    std::free(reinterpret_cast<void*>(it->first));
  }
  allocations_.erase(it);
}

/// Host memory that was added may have been freed by its owner and come back in other shape.
void DeviceMemory::make_room(uint64_t begin, uint64_t end) {
  auto it = allocations_.lower_bound(begin);
  if (it != allocations_.begin()) {
    auto before = std::prev(it);
    if (before->second.written == nullptr &&
        before->second.address + before->second.bytes > begin) {
      it = before;
    }
  }
  while (it != allocations_.end() && it->first < std::max(end, begin + 1)) {
    auto next = std::next(it);
    if (it->second.written == nullptr) forget(it);
    it = next;
  }
}

void DeviceMemory::add(const void* address, uint64_t bytes, Allocation::Kind kind,
                       const std::string& label) {
  std::lock_guard<std::mutex> lock(mutex_);
  uint64_t begin = reinterpret_cast<uint64_t>(address);
  make_room(begin, begin + bytes);
  allocations_[begin] = Allocation{begin, bytes, kind, false, label, nullptr};
}

void DeviceMemory::remove(const void* address) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = allocations_.find(reinterpret_cast<uint64_t>(address));
  if (it != allocations_.end() && it->second.written == nullptr) allocations_.erase(it);
}

const Allocation* DeviceMemory::find(uint64_t address) const {
  auto it = allocations_.upper_bound(address);
  if (it == allocations_.begin()) return nullptr;
  --it;
  return address < it->second.address + it->second.bytes ? &it->second : nullptr;
}

void DeviceMemory::mark_written(const void* address, uint64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  uint64_t begin = reinterpret_cast<uint64_t>(address);
  const Allocation* found = find(begin);
  if (found == nullptr || found->written == nullptr || !found->holds(begin, bytes)) return;
  std::fill_n(found->written + (begin - found->address), bytes, uint8_t{1});
}

void DeviceMemory::copy_written(void* to, const void* from, uint64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  uint64_t target = reinterpret_cast<uint64_t>(to), source = reinterpret_cast<uint64_t>(from);
  const Allocation* target_of = find(target);
  const Allocation* source_of = find(source);
  if (target_of == nullptr || target_of->written == nullptr || !target_of->holds(target, bytes))
    return;
  uint8_t* flags = target_of->written + (target - target_of->address);
  bool known =
      source_of != nullptr && source_of->written != nullptr && source_of->holds(source, bytes);
  if (known) {
    std::copy_n(source_of->written + (source - source_of->address), bytes, flags);
  } else {
    std::fill_n(flags, bytes, uint8_t{1});
  }
}

bool DeviceMemory::valid(const void* address, uint64_t bytes) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const Allocation* found = find(reinterpret_cast<uint64_t>(address));
  return found != nullptr && !found->freed &&
         found->holds(reinterpret_cast<uint64_t>(address), bytes);
}

std::string DeviceMemory::describe(uint64_t address) const {
  auto it = allocations_.upper_bound(address);
  if (it == allocations_.begin()) return "no allocation";
  --it;
  const Allocation& nearest = it->second;
  uint64_t offset = address - nearest.address;
  std::string text = nearest.label + " (" + std::to_string(nearest.bytes) + " B" +
                     (nearest.freed ? ", freed" : "") + ") + " + std::to_string(offset);
  return offset < nearest.bytes ? text : "no allocation; nearest below is " + text;
}

}  // namespace emu
