// Ranks that mpirun started, by Open MPI's library, which is opened here. MPI's handles are addresses of its
// variables, which only Open MPI names so: another MPI is refused by its own name.
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "../abi/ort.h"
#include "communicator.h"

namespace hybridseek {

namespace {

using Clock = std::chrono::steady_clock;
using Handle = void*;

constexpr int kSerialized = 2;  // MPI_THREAD_SERIALIZED: one thread at a time calls
constexpr int kAnySource = -1;
constexpr int kLargestMessage = 1 << 30;  // lengths are ints, bytes
constexpr size_t kLongestReason = 4096;   // bytes
enum Tag : int { kData = 1, kFailure = 2 };

Error failure(const std::string& message) { return Error(kOrtFail, message); }

struct Library {
  int (*Initialized)(int*);
  int (*Finalized)(int*);
  int (*Init_thread)(int*, char***, int wanted, int* given);
  int (*Finalize)();
  int (*Comm_rank)(Handle, int*);
  int (*Comm_size)(Handle, int*);
  int (*Comm_set_errhandler)(Handle, Handle);
  int (*Isend)(const void*, int count, Handle type, int to, int tag, Handle, Handle* request);
  int (*Irecv)(void*, int count, Handle type, int from, int tag, Handle, Handle* request);
  int (*Recv)(void*, int count, Handle type, int from, int tag, Handle, void* status);
  int (*Testall)(int count, Handle* requests, int* done, void* statuses);
  int (*Iprobe)(int from, int tag, Handle, int* found, void* status);
  Handle world, byte, errors_return;

  explicit Library(const std::string& path) {
    // Its plug-ins look for its symbols among those of the process.
    void* file = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (!file) throw failure(std::string(dlerror()) + "; apt-get install openmpi-bin");
    world = dlsym(file, "ompi_mpi_comm_world");
    byte = dlsym(file, "ompi_mpi_byte");
    errors_return = dlsym(file, "ompi_mpi_errors_return");
    if (!world || !byte || !errors_return) {
      throw failure(path + " is " + name_of(file) + ", needed is Open MPI");
    }
    find(file, "MPI_Initialized", Initialized);
    find(file, "MPI_Finalized", Finalized);
    find(file, "MPI_Init_thread", Init_thread);
    find(file, "MPI_Finalize", Finalize);
    find(file, "MPI_Comm_rank", Comm_rank);
    find(file, "MPI_Comm_size", Comm_size);
    find(file, "MPI_Comm_set_errhandler", Comm_set_errhandler);
    find(file, "MPI_Isend", Isend);
    find(file, "MPI_Irecv", Irecv);
    find(file, "MPI_Recv", Recv);
    find(file, "MPI_Testall", Testall);
    find(file, "MPI_Iprobe", Iprobe);
  }

 private:
  template <typename F>
  static void find(void* file, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(file, name));
    if (!function) throw failure(std::string("this MPI has no ") + name);
  }

  static std::string name_of(void* file) {
    auto version = reinterpret_cast<int (*)(char*, int*)>(dlsym(file, "MPI_Get_library_version"));
    if (!version) return "no MPI";
    std::vector<char> text(8192);
    int length = 0;
    version(text.data(), &length);
    std::string name(text.data());
    return name.substr(0, name.find_first_of("\r\n"));
  }
};

void check(int code, const char* what) {
  if (code != 0) throw failure(std::string(what) + " failed with MPI's error " + std::to_string(code));
}

// MPI is started once in a process, and ended with it.
const Library& start(const std::string& path) {
  static const Library& library = *new Library(path);
  int running = 0, given = 0;
  library.Initialized(&running);
  if (!running) {
    check(library.Init_thread(nullptr, nullptr, kSerialized, &given), "MPI_Init_thread");
    if (given < kSerialized) throw failure("this MPI was built without threads");
  }
  return library;
}

std::pair<int, int> place_of(const Library& mpi) {
  int rank = 0, ranks = 0;
  check(mpi.Comm_rank(mpi.world, &rank), "MPI_Comm_rank");
  check(mpi.Comm_size(mpi.world, &ranks), "MPI_Comm_size");
  return {rank, ranks};
}

// Whether a rank failed: then not all come to MPI_Finalize, which would wait for them.
bool failed = false;
const Library* started = nullptr;

void finalize() {
  int over = 0;
  started->Finalized(&over);
  if (!failed && !over) started->Finalize();
}

class Mpi : public PointToPoint {
 public:
  Mpi(const Library& mpi, std::pair<int, int> place, std::chrono::milliseconds timeout)
      : PointToPoint(place.first, place.second), mpi_(mpi), timeout_(timeout) {
    check(mpi.Comm_set_errhandler(mpi.world, mpi.errors_return), "MPI_Comm_set_errhandler");
    if (!started) {
      started = &mpi;
      std::atexit(finalize);
    }
  }

  void abort(const std::string& reason) override {
    if (!reason_.empty()) return;
    failed = true;
    // The message must stay where it is until it has gone, which nobody waits for.
    static std::string& kept = *new std::string();
    reason_ = kept = reason.substr(0, kLongestReason);
    for (int other = 0; other < ranks; other++) {
      Handle request = nullptr;
      if (other == rank) continue;
      mpi_.Isend(kept.data(), static_cast<int>(kept.size()), mpi_.byte, other, kFailure, mpi_.world,
                 &request);
    }
  }

 private:
  void move(const std::vector<Message>& sends, const std::vector<Message>& receives,
            bool bounded) override {
    std::vector<Handle> requests;
    auto pieces = [&](const Message& message, auto start_one) {
      for (size_t at = 0; at < message.bytes;) {
        size_t length = std::min<size_t>(message.bytes - at, kLargestMessage);
        Handle request = nullptr;
        start_one(static_cast<char*>(message.data) + at, static_cast<int>(length), request);
        requests.push_back(request);
        at += length;
      }
    };
    for (const Message& m : receives) {
      pieces(m, [&](char* to, int length, Handle& request) {
        check(mpi_.Irecv(to, length, mpi_.byte, m.peer, kData, mpi_.world, &request), "MPI_Irecv");
      });
    }
    for (const Message& m : sends) {
      pieces(m, [&](char* from, int length, Handle& request) {
        check(mpi_.Isend(from, length, mpi_.byte, m.peer, kData, mpi_.world, &request), "MPI_Isend");
      });
    }
    auto until = Clock::now() + timeout_;
    for (unsigned turn = 0;; turn++) {
      int done = 0;
      int code = mpi_.Testall(static_cast<int>(requests.size()), requests.data(), &done, nullptr);
      if (code != 0) throw failure("another rank is gone (MPI's error " + std::to_string(code) + ")");
      if (done) return;
      if (turn < 200) continue;
      look_for_failure();
      if (bounded && Clock::now() > until) {
        throw failure("the other ranks did not answer within " + std::to_string(timeout_.count()) +
                      " ms");
      }
      std::this_thread::sleep_for(std::chrono::microseconds(turn < 2000 ? 20 : 200));
    }
  }

  void look_for_failure() {
    int found = 0;
    if (mpi_.Iprobe(kAnySource, kFailure, mpi_.world, &found, nullptr) != 0 || !found) return;
    std::vector<char> reason(kLongestReason + 1);
    mpi_.Recv(reason.data(), kLongestReason, mpi_.byte, kAnySource, kFailure, mpi_.world, nullptr);
    throw failure(reason.data());
  }

  const Library& mpi_;
  const std::chrono::milliseconds timeout_;
};

}  // namespace

std::shared_ptr<PointToPoint> join_mpi(const std::string& library, std::chrono::milliseconds timeout) {
  const Library& mpi = start(library);
  return std::make_shared<Mpi>(mpi, place_of(mpi), timeout);
}

}  // namespace hybridseek
