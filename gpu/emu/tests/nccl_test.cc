// Ranks as processes over the emulated NCCL: `nccl_test libnccl.so.2`. Expected values are computed
// here from what every rank contributes.
#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

namespace {

struct UniqueId {
  char bytes[128];
};
using Comm = void*;
enum { kInt8 = 0, kInt32 = 2, kFloat16 = 6, kFloat32 = 7, kBfloat16 = 9 };
enum { kSum = 0, kMax = 2 };

struct Api {
  int (*unique_id)(UniqueId*);
  int (*init)(Comm*, int, UniqueId, int);
  int (*destroy)(Comm);
  int (*all_reduce)(const void*, void*, size_t, int, int, Comm, void*);
  int (*all_gather)(const void*, void*, size_t, int, Comm, void*);
  int (*reduce_scatter)(const void*, void*, size_t, int, int, Comm, void*);
  int (*broadcast)(const void*, void*, size_t, int, int, Comm, void*);
  int (*send)(const void*, size_t, int, int, Comm, void*);
  int (*receive)(void*, size_t, int, int, Comm, void*);
  int (*group_start)();
  int (*group_end)();
} nccl;

int failures = 0;

void expect(bool good, const char* what, int rank) {
  if (good) return;
  failures++;
  std::printf("FAILED rank %d: %s\n", rank, what);
}

uint16_t bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
uint16_t f16(float value) {
  auto half = static_cast<_Float16>(value);
  uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}

/// A small number that is exact in every format: what rank contributes at i.
int contribution(int rank, size_t i) {
  return static_cast<int>((i * 7 + static_cast<size_t>(rank) * 3) % 11) - 5;
}
int total(int ranks, size_t i) {
  int sum = 0;
  for (int r = 0; r < ranks; r++) sum += contribution(r, i);
  return sum;
}

template <class T>
void reductions(Comm comm, int ranks, int rank, int type, const std::function<T(int)>& encode) {
  size_t count = 300001;  // more than what is exchanged at once, and odd
  std::vector<T> from(count), to(count);
  for (size_t i = 0; i < count; i++) from[i] = encode(contribution(rank, i));
  expect(nccl.all_reduce(from.data(), to.data(), count, type, kSum, comm, nullptr) == 0,
         "all-reduce", rank);
  bool good = true;
  for (size_t i = 0; i < count; i++) good &= to[i] == encode(total(ranks, i));
  expect(good, "all-reduce's sums", rank);
  expect(nccl.all_reduce(from.data(), from.data(), count, type, kMax, comm, nullptr) == 0,
         "all-reduce in place", rank);
  size_t each = 40001;
  std::vector<T> parts(each * static_cast<size_t>(ranks)), part(each);
  for (size_t i = 0; i < parts.size(); i++) parts[i] = encode(contribution(rank, i));
  expect(nccl.reduce_scatter(parts.data(), part.data(), each, type, kSum, comm, nullptr) == 0,
         "reduce-scatter", rank);
  good = true;
  for (size_t i = 0; i < each; i++)
    good &= part[i] == encode(total(ranks, static_cast<size_t>(rank) * each + i));
  expect(good, "reduce-scatter's sums", rank);
  for (size_t i = 0; i < each; i++) part[i] = encode(contribution(rank, i));
  expect(nccl.all_gather(part.data(), parts.data(), each, type, comm, nullptr) == 0, "all-gather",
         rank);
  good = true;
  for (size_t i = 0; i < parts.size(); i++)
    good &= parts[i] == encode(contribution(static_cast<int>(i / each), i % each));
  expect(good, "all-gather's parts", rank);
  expect(nccl.broadcast(part.data(), part.data(), each, type, ranks - 1, comm, nullptr) == 0,
         "broadcast", rank);
  good = true;
  for (size_t i = 0; i < each; i++) good &= part[i] == encode(contribution(ranks - 1, i));
  expect(good, "broadcast's values", rank);
}

/// All-to-all with pieces of different lengths, some of none.
void all_to_all(Comm comm, int ranks, int rank) {
  auto length = [&](int from, int to) {
    return static_cast<size_t>((from * 5 + to * 3) % 4) * 20000;
  };
  std::vector<std::vector<int32_t>> out(static_cast<size_t>(ranks)), in(static_cast<size_t>(ranks));
  expect(nccl.group_start() == 0, "group", rank);
  for (int peer = 0; peer < ranks; peer++) {
    auto& sent = out[static_cast<size_t>(peer)];
    auto& received = in[static_cast<size_t>(peer)];
    sent.resize(length(rank, peer));
    received.resize(length(peer, rank));
    for (size_t i = 0; i < sent.size(); i++)
      sent[i] = static_cast<int32_t>(i) * 64 + rank * 8 + peer;
    nccl.send(sent.data(), sent.size(), kInt32, peer, comm, nullptr);
    nccl.receive(received.data(), received.size(), kInt32, peer, comm, nullptr);
  }
  expect(nccl.group_end() == 0, "all-to-all", rank);
  bool good = true;
  for (int peer = 0; peer < ranks; peer++) {
    const auto& received = in[static_cast<size_t>(peer)];
    for (size_t i = 0; i < received.size(); i++)
      good &= received[i] == static_cast<int32_t>(i) * 64 + peer * 8 + rank;
  }
  expect(good, "all-to-all's pieces", rank);
}

/// Runs `body` as every rank; gives the number of ranks that ended with an error.
int run(int ranks, const std::function<int(Comm, int)>& body) {
  std::fflush(stdout);  // or every child prints it again
  UniqueId id;
  nccl.unique_id(&id);
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; rank++) {
    pid_t child = fork();
    if (child == 0) {
      Comm comm = nullptr;
      if (nccl.init(&comm, ranks, id, rank) != 0) _exit(2);
      int code = body(comm, rank);
      nccl.destroy(comm);
      std::fflush(stdout);
      _exit(code);
    }
    children.push_back(child);
  }
  int bad = 0;
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    bad += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
  }
  return bad;
}

template <class F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr) {
    std::printf("FAILED no %s\n", name);
    std::exit(1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  void* library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : nullptr;
  if (library == nullptr) {
    std::printf("usage: nccl_test libnccl.so.2\n");
    return 2;
  }
  find(library, "ncclGetUniqueId", nccl.unique_id);
  find(library, "ncclCommInitRank", nccl.init);
  find(library, "ncclCommDestroy", nccl.destroy);
  find(library, "ncclAllReduce", nccl.all_reduce);
  find(library, "ncclAllGather", nccl.all_gather);
  find(library, "ncclReduceScatter", nccl.reduce_scatter);
  find(library, "ncclBroadcast", nccl.broadcast);
  find(library, "ncclSend", nccl.send);
  find(library, "ncclRecv", nccl.receive);
  find(library, "ncclGroupStart", nccl.group_start);
  find(library, "ncclGroupEnd", nccl.group_end);

  for (int ranks : {1, 2, 4, 8}) {
    int bad = run(ranks, [&](Comm comm, int rank) {
      reductions<float>(comm, ranks, rank, kFloat32, [](int v) { return static_cast<float>(v); });
      reductions<uint16_t>(comm, ranks, rank, kFloat16,
                           [](int v) { return f16(static_cast<float>(v)); });
      reductions<uint16_t>(comm, ranks, rank, kBfloat16,
                           [](int v) { return bf16(static_cast<float>(v)); });
      reductions<int32_t>(comm, ranks, rank, kInt32, [](int v) { return v; });
      reductions<int8_t>(comm, ranks, rank, kInt8, [](int v) { return static_cast<int8_t>(v); });
      all_to_all(comm, ranks, rank);
      return failures;
    });
    failures += bad;
    std::printf("%s %d ranks\n", bad == 0 ? "ok" : "FAILED", ranks);
    std::fflush(stdout);
  }

  // A rank dies before the sum: the others' calls end with an error, and soon.
  auto begin = std::chrono::steady_clock::now();
  int bad = run(4, [&](Comm comm, int rank) {
    float value = 1;
    if (nccl.all_reduce(&value, &value, 1, kFloat32, kSum, comm, nullptr) != 0) return 3;
    if (rank == 2) raise(SIGKILL);
    return nccl.all_reduce(&value, &value, 1, kFloat32, kSum, comm, nullptr) != 0 ? 0 : 4;
  });
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  bool good = bad == 1 && seconds < 20;
  failures += !good;
  std::printf("%s a killed rank ends the others' calls (%d ranks without that error)\n",
              good ? "ok" : "FAILED", bad - 1);

  // A rank that never comes.
  setenv("HYBRIDSEEK_EMU_NCCL_TIMEOUT", "300", 1);
  bad = run(2, [&](Comm comm, int rank) {
    if (rank == 1) {
      usleep(2000000);
      return 0;
    }
    float value = 1;
    return nccl.all_reduce(&value, &value, 1, kFloat32, kSum, comm, nullptr) != 0 ? 0 : 4;
  });
  failures += bad;
  std::printf("%s a rank that does not come ends in a time limit\n", bad == 0 ? "ok" : "FAILED");
  return failures == 0 ? 0 : 1;
}
