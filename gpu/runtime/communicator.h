// Processes ("ranks") that compute one model together, and what they exchange. Whatever fails on one rank ends
// the call of every other with an Error that says which: no call waits longer than a set time, but for those that
// wait for the next command. A communicator that failed stays so.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace hybridseek {

// Sums are of f32, in the order of ranks, so that every rank gets the same bits. `stream` is the CUDA stream that
// the tensors belong to; transports of the host's memory are given none.
class Communicator {
 public:
  Communicator(int rank, int ranks) : rank(rank), ranks(ranks) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const int rank, ranks;

  // to[i] = the sum over ranks of from[i].
  virtual void all_reduce(const float* from, float* to, size_t count, void* stream) = 0;
  // Rank r gives counts[r] numbers; `to` gets those of all ranks in their order.
  virtual void all_gather(const float* from, float* to, const std::vector<size_t>& counts,
                          void* stream) = 0;
  // Adds up as all_reduce does; rank r gets the counts[r] numbers that are its own.
  virtual void reduce_scatter(const float* from, float* to, const std::vector<size_t>& counts,
                              void* stream) = 0;
  // Numbers for each rank in their order, and those of each rank for this one.
  virtual void all_to_all(const float* from, float* to, const std::vector<size_t>& sent,
                          const std::vector<size_t>& received, void* stream) = 0;
  // Whether it takes tensors in a GPU's memory.
  virtual bool takes_device_memory() const { return false; }
  // Tells the other ranks why this one fails.
  virtual void abort(const std::string& reason) = 0;
};

// Collectives of messages between two ranks, in the host's memory.
class PointToPoint : public Communicator {
 public:
  using Communicator::Communicator;

  void all_reduce(const float* from, float* to, size_t count, void* stream) override;
  void all_gather(const float* from, float* to, const std::vector<size_t>& counts,
                  void* stream) override;
  void reduce_scatter(const float* from, float* to, const std::vector<size_t>& counts,
                      void* stream) override;
  void all_to_all(const float* from, float* to, const std::vector<size_t>& sent,
                  const std::vector<size_t>& received, void* stream) override;
  // Gives all ranks what rank 0 gives. Others wait for it as long as rank 0 lives.
  std::string broadcast(const std::string& bytes);
  // What each rank gives, on rank 0; nothing on others.
  std::vector<std::string> gather(const std::string& bytes);

 protected:
  struct Message {
    int peer;
    void* data;
    size_t bytes;
  };
  // Sends and receives messages, at most one to and one from each other rank.
  virtual void move(const std::vector<Message>& sends, const std::vector<Message>& receives, bool bounded) = 0;

  std::string reason_;  // why it failed

 private:
  // Moves messages; what fails here ends the call of all.
  void exchange(const std::vector<Message>& sends, const std::vector<Message>& receives, bool bounded = true);
};

// How ranks over TCP find each other: rank 0 listens at an address, the others come to it.
struct MeetingPlace {
  std::string address;
  int port;
  // What every rank must know; strangers are turned away.
  std::string key;
  int rank, ranks;
  // How long ranks wait for each other.
  std::chrono::milliseconds timeout;
};

std::shared_ptr<PointToPoint> join_sockets(const MeetingPlace& place);
// The processes of an mpirun, by a library of Open MPI that is opened here.
std::shared_ptr<PointToPoint> join_mpi(const std::string& library, std::chrono::milliseconds timeout);
// NCCL, a library that is opened here, between ranks that know each other.
std::shared_ptr<Communicator> join_nccl(PointToPoint& ranks, const std::string& library);

// Communicators by number, for the nodes of a graph. They are known as long as somebody holds them.
int64_t register_communicator(const std::shared_ptr<Communicator>& communicator);
// Null if there is none of this number.
std::shared_ptr<Communicator> find_communicator(int64_t number);

}  // namespace hybridseek
