// Ranks with a GPU each, by NCCL's library, which is opened here. A call starts what the GPU's stream does later;
// whoever waits for the stream must not wait for ever, see NCCL_TIMEOUT and the run's own limit.
#include <dlfcn.h>

#include <cstring>

#include "../abi/ort.h"
#include "communicator.h"

namespace hybridseek {

namespace {

constexpr int kFloat32 = 7;  // ncclFloat32
constexpr int kSum = 0;      // ncclSum

struct UniqueId {
  char bytes[128];
};
using Handle = void*;

Error failure(const std::string& message) { return Error(kOrtFail, message); }

struct Library {
  int (*GetUniqueId)(UniqueId*);
  int (*CommInitRank)(Handle*, int ranks, UniqueId, int rank);
  int (*CommDestroy)(Handle);
  int (*CommAbort)(Handle);
  const char* (*GetErrorString)(int);
  const char* (*GetLastError)(Handle);
  int (*GroupStart)();
  int (*GroupEnd)();
  int (*AllReduce)(const void*, void*, size_t, int type, int operation, Handle, void* stream);
  int (*Broadcast)(const void*, void*, size_t, int type, int root, Handle, void* stream);
  int (*Reduce)(const void*, void*, size_t, int type, int operation, int root, Handle, void* stream);
  int (*Send)(const void*, size_t, int type, int to, Handle, void* stream);
  int (*Recv)(void*, size_t, int type, int from, Handle, void* stream);

  explicit Library(const std::string& path) {
    void* file = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!file) throw failure(std::string(dlerror()) + "; pip install nvidia-nccl-cu13");
    find(file, "ncclGetUniqueId", GetUniqueId);
    find(file, "ncclCommInitRank", CommInitRank);
    find(file, "ncclCommDestroy", CommDestroy);
    find(file, "ncclCommAbort", CommAbort);
    find(file, "ncclGetErrorString", GetErrorString);
    find(file, "ncclGetLastError", GetLastError);
    find(file, "ncclGroupStart", GroupStart);
    find(file, "ncclGroupEnd", GroupEnd);
    find(file, "ncclAllReduce", AllReduce);
    find(file, "ncclBroadcast", Broadcast);
    find(file, "ncclReduce", Reduce);
    find(file, "ncclSend", Send);
    find(file, "ncclRecv", Recv);
  }

 private:
  template <typename F>
  static void find(void* file, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(file, name));
    if (!function) throw failure(std::string("this NCCL has no ") + name);
  }
};

class Nccl : public Communicator {
 public:
  Nccl(PointToPoint& known, const std::string& path)
      : Communicator(known.rank, known.ranks), nccl_(path) {
    UniqueId id{};
    if (rank == 0) check(nccl_.GetUniqueId(&id));
    std::string bytes = known.broadcast(std::string(id.bytes, sizeof id.bytes));
    if (bytes.size() != sizeof id.bytes) throw failure("rank 0 sent no NCCL id");
    std::memcpy(id.bytes, bytes.data(), sizeof id.bytes);
    check(nccl_.CommInitRank(&communicator_, ranks, id, rank));
  }

  ~Nccl() override {
    if (communicator_) nccl_.CommDestroy(communicator_);
  }

  void all_reduce(const float* from, float* to, size_t count, void* stream) override {
    check(nccl_.AllReduce(from, to, count, kFloat32, kSum, communicator_, stream));
  }

  void all_gather(const float* from, float* to, const std::vector<size_t>& counts,
                  void* stream) override {
    each(counts, [&](int root, size_t count) {
      float* place = to;
      to += count;
      return nccl_.Broadcast(root == rank ? from : place, place, count, kFloat32, root, communicator_,
                             stream);
    });
  }

  void reduce_scatter(const float* from, float* to, const std::vector<size_t>& counts,
                      void* stream) override {
    each(counts, [&](int root, size_t count) {
      const float* part = from;
      from += count;
      return nccl_.Reduce(part, to, count, kFloat32, kSum, root, communicator_, stream);
    });
  }

  void all_to_all(const float* from, float* to, const std::vector<size_t>& sent,
                  const std::vector<size_t>& received, void* stream) override {
    each(sent, [&](int other, size_t count) {
      check(nccl_.Send(from, count, kFloat32, other, communicator_, stream));
      from += count;
      size_t in = received[static_cast<size_t>(other)];
      float* place = to;
      to += in;
      return nccl_.Recv(place, in, kFloat32, other, communicator_, stream);
    });
  }

  bool takes_device_memory() const override { return true; }

  void abort(const std::string&) override {
    if (communicator_) nccl_.CommAbort(communicator_);
    communicator_ = nullptr;
  }

 private:
  template <typename F>
  void each(const std::vector<size_t>& counts, F call) {
    if (!communicator_) throw failure("the ranks failed before");
    check(nccl_.GroupStart());
    for (int root = 0; root < ranks; root++) check(call(root, counts[static_cast<size_t>(root)]));
    check(nccl_.GroupEnd());
  }

  void check(int result) const {
    if (result == 0) return;
    throw failure(std::string("NCCL: ") + nccl_.GetErrorString(result) + " (" +
                  nccl_.GetLastError(communicator_) + ")");
  }

  const Library nccl_;
  Handle communicator_ = nullptr;
};

}  // namespace

std::shared_ptr<Communicator> join_nccl(PointToPoint& ranks, const std::string& library) {
  return std::make_shared<Nccl>(ranks, library);
}

}  // namespace hybridseek
