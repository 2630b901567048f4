// NCCL between processes of one machine, over shared memory. For programs on the emulated CUDA
// runtime: device memory is host memory, and a call has done its work when it returns.
//
// Sums of f16 and bf16 are made in f32, in the order of ranks, and rounded once; NCCL rounds on the
// way, in an order of its own. A rank that dies, or that does not come within
// HYBRIDSEEK_EMU_NCCL_TIMEOUT milliseconds (30000), ends the others' calls with an error.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

enum Result : int {
  kSuccess = 0,
  kSystemError = 2,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
};
enum DataType : int {
  kInt8,
  kUint8,
  kInt32,
  kUint32,
  kInt64,
  kUint64,
  kFloat16,
  kFloat32,
  kFloat64,
  kBfloat16,
  kDataTypes
};
enum Operation : int { kSum, kProduct, kMax, kMin, kAverage, kOperations };

constexpr size_t kBytes[kDataTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
constexpr int kMaxRanks = 64;
constexpr size_t kSlot = 256 << 10;  // bytes of a rank that are exchanged at once
constexpr size_t kMail = 64 << 10;   // the same between two ranks

/// The head of the shared memory. Slots of all ranks follow, then a mailbox for every pair.
struct Head {
  std::atomic<int> joined;
  std::atomic<int> failed;
  std::atomic<int> arrived;
  std::atomic<uint32_t> generation;
  std::atomic<uint8_t> left[kMaxRanks];  ///< ranks that destroyed their communicator
};
struct Mail {
  std::atomic<uint32_t> full;
  uint32_t bytes;
  uint8_t data[kMail];
};
constexpr size_t kHead = 4096;

struct UniqueId {
  char bytes[128];
};

thread_local std::string last_error = "no error";

Result fail(Result result, const std::string& what) {
  last_error = what;
  return result;
}

/// Whether the process still holds the lock by which its rank lives: the kernel frees it with the
/// process.
bool holds_lock(int file, int rank, bool take) {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = rank;
  lock.l_len = 1;
  if (take) return fcntl(file, F_OFD_SETLK, &lock) == 0;
  return fcntl(file, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/// The emulated runtime, if the program uses it, is told that memory was written.
void mark_written(const void* memory, size_t bytes) {
  using Mark = void (*)(const void*, size_t);
  static const Mark mark = [] {
    void* runtime = dlopen("libhybridseek_emu.so", RTLD_LAZY | RTLD_NOLOAD);
    return runtime == nullptr ? nullptr
                              : reinterpret_cast<Mark>(dlsym(runtime, "ptx_mark_written"));
  }();
  if (mark != nullptr) mark(memory, bytes);
}

class Communicator {
 public:
  Communicator(int ranks, int rank) : ranks(ranks), rank(rank) {
    const char* text = std::getenv("HYBRIDSEEK_EMU_NCCL_TIMEOUT");
    if (text != nullptr && *text != 0) timeout_ = milliseconds(std::strtoll(text, nullptr, 10));
  }
  ~Communicator() {
    if (memory_ != nullptr) {
      // Who has done its part may go while others are still at theirs.
      head().left[rank] = 1;
      munmap(memory_, bytes());
    }
    if (file_ >= 0) close(file_);
  }

  const int ranks, rank;

  Result join(const std::string& name) {
    file_ = shm_open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (file_ < 0 || ftruncate(file_, static_cast<off_t>(bytes())) != 0)
      return fail(kSystemError, "no shared memory " + name);
    void* memory = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
    if (memory == MAP_FAILED) return fail(kSystemError, "shared memory can not be mapped");
    memory_ = static_cast<uint8_t*>(memory);
    // The lock's file is the shared memory itself; every rank locks the byte of its number.
    if (!holds_lock(file_, rank, true))
      return fail(kInvalidUsage, "rank " + std::to_string(rank) + " is there twice");
    head().joined++;
    Result result = wait([&] { return head().joined.load() >= ranks; }, false);
    if (rank == 0) shm_unlink(name.c_str());
    return result;
  }

  /// All ranks come here before any goes on.
  Result barrier() {
    uint32_t generation = head().generation.load();
    if (head().arrived.fetch_add(1) + 1 == ranks) {
      head().arrived = 0;
      head().generation++;
      return kSuccess;
    }
    return wait([&] { return head().generation.load() != generation; });
  }

  /// Waits for what another rank does, but not for ever.
  Result wait(const std::function<bool()>& done, bool all_joined = true) {
    auto begin = steady_clock::now();
    auto checked = begin;
    for (unsigned turn = 0; !done(); turn++) {
      // What is done is done, even if a rank fell since.
      if (head().failed.load() != 0) {
        return done() ? kSuccess : fail(kRemoteError, "another rank failed");
      }
      if (turn > 1000) std::this_thread::sleep_for(std::chrono::microseconds(50));
      auto now = steady_clock::now();
      if (now - checked < milliseconds(20)) continue;
      checked = now;
      for (int other = 0; all_joined && other < ranks; other++) {
        if (other == rank || head().left[other].load() != 0) continue;
        if (holds_lock(file_, other, false)) continue;
        if (head().left[other].load() != 0) continue;  // it left just now
        if (done()) return kSuccess;
        head().failed = 1;
        return fail(kRemoteError, "rank " + std::to_string(other) + " is gone");
      }
      if (now - begin > timeout_) {
        head().failed = 1;
        return fail(kRemoteError, "no answer within " + std::to_string(timeout_.count()) + " ms");
      }
    }
    return kSuccess;
  }

  uint8_t* slot(int of) { return memory_ + kHead + static_cast<size_t>(of) * kSlot; }
  Mail& mail(int from, int to) {
    uint8_t* boxes = memory_ + kHead + static_cast<size_t>(ranks) * kSlot;
    return reinterpret_cast<Mail*>(boxes)[from * ranks + to];
  }
  void abandon() { head().failed = 1; }
  bool failed() { return head().failed.load() != 0; }

 private:
  Head& head() { return *reinterpret_cast<Head*>(memory_); }
  size_t bytes() const {
    auto n = static_cast<size_t>(ranks);
    return kHead + n * kSlot + n * n * sizeof(Mail);
  }

  int file_ = -1;
  uint8_t* memory_ = nullptr;
  milliseconds timeout_{30000};
};

// ---- reductions
// ----------------------------------------------------------------------------------------

template <class To, class From>
To bits(From from) {
  To to;
  static_assert(sizeof to == sizeof from, "");
  std::memcpy(&to, &from, sizeof to);
  return to;
}

struct Half {
  static float decode(uint16_t value) { return static_cast<float>(bits<_Float16>(value)); }
  static uint16_t encode(float value) { return bits<uint16_t>(static_cast<_Float16>(value)); }
};
struct Brain {
  static float decode(uint16_t value) { return bits<float>(static_cast<uint32_t>(value) << 16); }
  static uint16_t encode(float value) {
    auto word = bits<uint32_t>(value);
    if (value != value) return 0x7fff;
    return static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
};
template <class T>
struct Itself {
  static T decode(T value) { return value; }
  static T encode(T value) { return value; }
};

template <class Stored, class Format>
void reduce(Communicator& c, size_t offset, void* to, size_t count, int operation) {
  using Number = decltype(Format::decode(Stored{}));
  auto* result = static_cast<Stored*>(to);
  for (size_t i = 0; i < count; i++) {
    auto value = [&](int rank) {
      return Format::decode(reinterpret_cast<const Stored*>(c.slot(rank) + offset)[i]);
    };
    Number sum = value(0);
    for (int rank = 1; rank < c.ranks; rank++) {
      Number next = value(rank);
      switch (operation) {
        case kProduct:
          sum = static_cast<Number>(sum * next);
          break;
        case kMax:
          sum = std::max(sum, next);
          break;
        case kMin:
          sum = std::min(sum, next);
          break;
        default:
          sum = static_cast<Number>(sum + next);
          break;
      }
    }
    if (operation == kAverage) sum = static_cast<Number>(sum / static_cast<Number>(c.ranks));
    result[i] = Format::encode(sum);
  }
}

void reduce_slots(Communicator& c, size_t offset, void* to, size_t count, int type, int operation) {
  switch (type) {
    case kInt8:
      return reduce<int8_t, Itself<int8_t>>(c, offset, to, count, operation);
    case kUint8:
      return reduce<uint8_t, Itself<uint8_t>>(c, offset, to, count, operation);
    case kInt32:
      return reduce<int32_t, Itself<int32_t>>(c, offset, to, count, operation);
    case kUint32:
      return reduce<uint32_t, Itself<uint32_t>>(c, offset, to, count, operation);
    case kInt64:
      return reduce<int64_t, Itself<int64_t>>(c, offset, to, count, operation);
    case kUint64:
      return reduce<uint64_t, Itself<uint64_t>>(c, offset, to, count, operation);
    case kFloat16:
      return reduce<uint16_t, Half>(c, offset, to, count, operation);
    case kFloat32:
      return reduce<float, Itself<float>>(c, offset, to, count, operation);
    case kFloat64:
      return reduce<double, Itself<double>>(c, offset, to, count, operation);
    default:
      return reduce<uint16_t, Brain>(c, offset, to, count, operation);
  }
}

/// Exchanges `bytes` of every rank in parts: puts what put(offset, length) gives into the own slot,
/// and lets take(offset, length) read everybody's.
template <class Put, class Take>
Result exchange(Communicator& c, size_t bytes, size_t part, Put put, Take take) {
  for (size_t at = 0; at < bytes; at += part) {
    size_t length = std::min(part, bytes - at);
    put(at, length);
    if (Result result = c.barrier()) return result;
    take(at, length);
    // Nobody overwrites a slot before all have read it.
    if (Result result = c.barrier()) return result;
  }
  return kSuccess;
}

bool valid(Communicator* c, int type) { return c != nullptr && type >= 0 && type < kDataTypes; }

// ---- point to point
// ------------------------------------------------------------------------------------

struct Transfer {
  Communicator* communicator;
  bool sends;
  uint8_t* memory;
  size_t bytes;
  int peer;
  size_t done = 0;
};

thread_local int group_depth = 0;
thread_local std::vector<Transfer> group;

/// Moves what can be moved now.
bool advance(Transfer& t) {
  Communicator& c = *t.communicator;
  Mail& mail = t.sends ? c.mail(c.rank, t.peer) : c.mail(t.peer, c.rank);
  if ((mail.full.load(std::memory_order_acquire) != 0) == t.sends) return false;
  if (t.sends) {
    mail.bytes = static_cast<uint32_t>(std::min(kMail, t.bytes - t.done));
    std::memcpy(mail.data, t.memory + t.done, mail.bytes);
    t.done += mail.bytes;
    mail.full.store(1, std::memory_order_release);
  } else {
    size_t length = std::min<size_t>(mail.bytes, t.bytes - t.done);
    std::memcpy(t.memory + t.done, mail.data, length);
    t.done += length;
    mail.full.store(0, std::memory_order_release);
  }
  return true;
}

/// Runs transfers together, since ranks that send to each other wait for each other. Of several
/// between the same two ranks one runs after the other.
Result run(std::vector<Transfer> transfers) {
  while (!transfers.empty()) {
    Result result = transfers.front().communicator->wait([&] {
      bool moved = false;
      std::vector<std::pair<bool, int>> busy;
      for (Transfer& t : transfers) {
        std::pair<bool, int> channel{t.sends, t.peer};
        if (std::find(busy.begin(), busy.end(), channel) != busy.end()) continue;
        busy.push_back(channel);
        moved |= advance(t);
      }
      return moved;
    });
    if (result != kSuccess) return result;
    for (auto it = transfers.begin(); it != transfers.end();) {
      if (it->done < it->bytes) {
        ++it;
        continue;
      }
      if (!it->sends) mark_written(it->memory, it->bytes);
      it = transfers.erase(it);
    }
  }
  return kSuccess;
}

Result transfer(Communicator* c, bool sends, const void* memory, size_t count, int type, int peer) {
  if (!valid(c, type) || peer < 0 || peer >= c->ranks)
    return fail(kInvalidArgument, "send or receive");
  size_t bytes = count * kBytes[type];
  if (bytes == 0) return kSuccess;
  group.push_back({c, sends, static_cast<uint8_t*>(const_cast<void*>(memory)), bytes, peer});
  if (group_depth > 0) return kSuccess;
  std::vector<Transfer> now;
  now.swap(group);
  return run(std::move(now));
}

}  // namespace

extern "C" {

Result ncclGetVersion(int* version) {
  *version = 22800;
  return kSuccess;
}

Result ncclGetUniqueId(UniqueId* id) {
  std::random_device random;
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->bytes, sizeof id->bytes, "/hybridseek-nccl-%08x%08x", random(), random());
  return kSuccess;
}

Result ncclCommInitRank(Communicator** communicator, int ranks, UniqueId id, int rank) {
  if (ranks < 1 || ranks > kMaxRanks || rank < 0 || rank >= ranks)
    return fail(kInvalidArgument, "rank or number of ranks");
  auto* made = new Communicator(ranks, rank);
  Result result = made->join(std::string(id.bytes, strnlen(id.bytes, sizeof id.bytes)));
  if (result != kSuccess) {
    delete made;
    return result;
  }
  *communicator = made;
  return kSuccess;
}

Result ncclCommFinalize(Communicator*) { return kSuccess; }
Result ncclCommDestroy(Communicator* c) {
  delete c;
  return kSuccess;
}
Result ncclCommAbort(Communicator* c) {
  if (c != nullptr) c->abandon();
  delete c;
  return kSuccess;
}
Result ncclCommCount(const Communicator* c, int* count) {
  *count = c->ranks;
  return kSuccess;
}
Result ncclCommUserRank(const Communicator* c, int* rank) {
  *rank = c->rank;
  return kSuccess;
}
Result ncclCommCuDevice(const Communicator*, int* device) {
  *device = 0;
  return kSuccess;
}
Result ncclCommGetAsyncError(Communicator* c, int* error) {
  *error = c->failed() ? kRemoteError : kSuccess;
  return kSuccess;
}

const char* ncclGetErrorString(int result) {
  switch (result) {
    case kSuccess:
      return "no error";
    case kSystemError:
      return "unhandled system error";
    case kInvalidArgument:
      return "invalid argument";
    case kInvalidUsage:
      return "invalid usage";
    case kRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "unknown result code";
  }
}
const char* ncclGetLastError(Communicator*) { return last_error.c_str(); }

Result ncclAllReduce(const void* from, void* to, size_t count, int type, int operation,
                     Communicator* c, void*) {
  if (!valid(c, type) || operation < 0 || operation >= kOperations)
    return fail(kInvalidArgument, "ncclAllReduce");
  Result result = exchange(
      *c, count * kBytes[type], kSlot,
      [&](size_t at, size_t length) {
        std::memcpy(c->slot(c->rank), static_cast<const char*>(from) + at, length);
      },
      [&](size_t at, size_t length) {
        reduce_slots(*c, 0, static_cast<char*>(to) + at, length / kBytes[type], type, operation);
      });
  if (result == kSuccess) mark_written(to, count * kBytes[type]);
  return result;
}

Result ncclReduce(const void* from, void* to, size_t count, int type, int operation, int root,
                  Communicator* c, void*) {
  if (!valid(c, type) || operation < 0 || operation >= kOperations || root < 0 || root >= c->ranks)
    return fail(kInvalidArgument, "ncclReduce");
  Result result = exchange(
      *c, count * kBytes[type], kSlot,
      [&](size_t at, size_t length) {
        std::memcpy(c->slot(c->rank), static_cast<const char*>(from) + at, length);
      },
      [&](size_t at, size_t length) {
        if (c->rank == root)
          reduce_slots(*c, 0, static_cast<char*>(to) + at, length / kBytes[type], type, operation);
      });
  if (result == kSuccess && c->rank == root) mark_written(to, count * kBytes[type]);
  return result;
}

Result ncclBroadcast(const void* from, void* to, size_t count, int type, int root, Communicator* c,
                     void*) {
  if (!valid(c, type) || root < 0 || root >= c->ranks)
    return fail(kInvalidArgument, "ncclBroadcast");
  Result result = exchange(
      *c, count * kBytes[type], kSlot,
      [&](size_t at, size_t length) {
        if (c->rank == root)
          std::memcpy(c->slot(root), static_cast<const char*>(from) + at, length);
      },
      [&](size_t at, size_t length) {
        std::memcpy(static_cast<char*>(to) + at, c->slot(root), length);
      });
  if (result == kSuccess) mark_written(to, count * kBytes[type]);
  return result;
}

Result ncclAllGather(const void* from, void* to, size_t count, int type, Communicator* c, void*) {
  if (!valid(c, type)) return fail(kInvalidArgument, "ncclAllGather");
  size_t bytes = count * kBytes[type];
  Result result = exchange(
      *c, bytes, kSlot,
      [&](size_t at, size_t length) {
        std::memcpy(c->slot(c->rank), static_cast<const char*>(from) + at, length);
      },
      [&](size_t at, size_t length) {
        for (int rank = 0; rank < c->ranks; rank++) {
          std::memcpy(static_cast<char*>(to) + static_cast<size_t>(rank) * bytes + at,
                      c->slot(rank), length);
        }
      });
  if (result == kSuccess) mark_written(to, static_cast<size_t>(c->ranks) * bytes);
  return result;
}

Result ncclReduceScatter(const void* from, void* to, size_t count, int type, int operation,
                         Communicator* c, void*) {
  if (!valid(c, type) || operation < 0 || operation >= kOperations)
    return fail(kInvalidArgument, "ncclReduceScatter");
  size_t bytes = count * kBytes[type];
  auto ranks = static_cast<size_t>(c->ranks);
  size_t part = kSlot / ranks / 8 * 8;  // a slot holds a part for every rank
  Result result = exchange(
      *c, bytes, part,
      [&](size_t at, size_t length) {
        for (size_t rank = 0; rank < ranks; rank++) {
          std::memcpy(c->slot(c->rank) + rank * part,
                      static_cast<const char*>(from) + rank * bytes + at, length);
        }
      },
      [&](size_t at, size_t length) {
        reduce_slots(*c, static_cast<size_t>(c->rank) * part, static_cast<char*>(to) + at,
                     length / kBytes[type], type, operation);
      });
  if (result == kSuccess) mark_written(to, bytes);
  return result;
}

Result ncclSend(const void* from, size_t count, int type, int peer, Communicator* c, void*) {
  return transfer(c, true, from, count, type, peer);
}
Result ncclRecv(void* to, size_t count, int type, int peer, Communicator* c, void*) {
  return transfer(c, false, to, count, type, peer);
}

Result ncclGroupStart() {
  group_depth++;
  return kSuccess;
}
Result ncclGroupEnd() {
  if (group_depth == 0) return fail(kInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  if (--group_depth > 0) return kSuccess;
  std::vector<Transfer> now;
  now.swap(group);
  return run(std::move(now));
}

}  // extern "C"
