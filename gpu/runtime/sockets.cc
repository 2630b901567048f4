// Ranks over TCP, each connected with each: for ranks of one machine, and for launchers that only say where rank
// 0 is. A message is a head and its bytes. A rank that dies closes its connections with it; one that fails says
// why and closes them.
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "../abi/ort.h"
#include "communicator.h"

namespace hybridseek {

namespace {

using Clock = std::chrono::steady_clock;

// Of messages and greetings: anything else is no rank, or one of another version.
constexpr uint32_t kMagic = 0x48534b31;
// A failure's message is cut to this, bytes.
constexpr size_t kLongestReason = 4096;

// How long a rank that failed waits for the others to hear of it.
constexpr std::chrono::milliseconds kFarewell{500};

enum Kind : uint32_t { kData, kFailure };

struct Head {
  uint32_t magic = kMagic;
  uint32_t kind = kData;
  uint64_t bytes = 0;
};

// What a rank says when it comes. The key follows.
struct Greeting {
  uint32_t magic = kMagic;
  uint32_t rank = 0, ranks = 0;
  uint32_t port = 0;  // where it waits for ranks with higher numbers
  uint32_t key_bytes = 0;
};

struct Address {
  char host[64] = {};
  uint32_t port = 0;
};

Error failure(const std::string& message) { return Error(kOrtFail, message); }

std::string name_of(int rank) { return "rank " + std::to_string(rank); }

// A file descriptor that closes itself.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int file) : file_(file) {}
  ~Socket() {
    if (file_ >= 0) close(file_);
  }
  Socket(Socket&& other) noexcept : file_(other.file_) { other.file_ = -1; }
  Socket& operator=(Socket&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  int file() const { return file_; }
  explicit operator bool() const { return file_ >= 0; }

 private:
  int file_ = -1;
};

// Waits until a socket can be read or written; false if the time is over.
bool wait_for(int file, short events, Clock::time_point until) {
  for (;;) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    if (left <= 0) return false;
    pollfd watched{file, events, 0};
    int ready = poll(&watched, 1, static_cast<int>(std::min<int64_t>(left, 1000)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return false;
  }
}

// Sends or receives all of a short message while ranks meet; false if the other is gone or the time is over.
bool transfer(int file, void* data, size_t bytes, bool sends, Clock::time_point until) {
  auto at = static_cast<char*>(data);
  while (bytes > 0) {
    if (!wait_for(file, sends ? POLLOUT : POLLIN, until)) return false;
    ssize_t moved = sends ? send(file, at, bytes, MSG_NOSIGNAL | MSG_DONTWAIT)
                          : recv(file, at, bytes, MSG_DONTWAIT);
    if (moved < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (moved <= 0) return false;
    at += moved;
    bytes -= static_cast<size_t>(moved);
  }
  return true;
}

Socket listen_at(const std::string& address, int port, int& bound) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  const char* host = address.empty() ? nullptr : address.c_str();
  if (getaddrinfo(host, std::to_string(port).c_str(), &hints, &found) != 0) {
    throw failure("address " + address + " is not known here");
  }
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, freeaddrinfo);
  for (addrinfo* info = found; info; info = info->ai_next) {
    Socket socket(::socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) continue;
    int on = 1;
    setsockopt(socket.file(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(socket.file(), info->ai_addr, info->ai_addrlen) != 0) continue;
    if (listen(socket.file(), 128) != 0) continue;
    sockaddr_storage own{};
    socklen_t length = sizeof own;
    getsockname(socket.file(), reinterpret_cast<sockaddr*>(&own), &length);
    bound = ntohs(own.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(own).sin6_port
                                            : reinterpret_cast<sockaddr_in&>(own).sin_port);
    return socket;
  }
  throw failure("can not listen at " + address + ":" + std::to_string(port) + " (" +
                std::strerror(errno) + ")");
}

// Comes to an address, where nobody may listen yet.
Socket connect_to(const std::string& address, int port, Clock::time_point until) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    throw failure("address " + address + " is not known here");
  }
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, freeaddrinfo);
  for (;;) {
    for (addrinfo* info = found; info; info = info->ai_next) {
      Socket socket(::socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (socket && connect(socket.file(), info->ai_addr, info->ai_addrlen) == 0) return socket;
    }
    if (Clock::now() > until) {
      throw failure("nobody listens at " + address + ":" + std::to_string(port));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

class Sockets : public PointToPoint {
 public:
  explicit Sockets(const MeetingPlace& place)
      : PointToPoint(place.rank, place.ranks), timeout_(place.timeout),
        peers_(static_cast<size_t>(place.ranks)) {
    auto until = Clock::now() + place.timeout;
    if (rank == 0) {
      receive_all(place, until);
    } else {
      come(place, until);
    }
    for (int other = 0; other < ranks; other++) {
      if (other == rank) continue;
      int on = 1, file = peers_[static_cast<size_t>(other)].socket.file();
      setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      setsockopt(file, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    }
  }

  // A connection that is closed with something unread takes back what was sent last: why this rank failed.
  ~Sockets() override {
    if (reason_.empty()) return;
    auto until = Clock::now() + kFarewell;
    char unread[65536];
    for (Peer& peer : peers_) {
      while (peer.socket && wait_for(peer.socket.file(), POLLIN, until)) {
        ssize_t got = recv(peer.socket.file(), unread, sizeof unread, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) break;
      }
    }
  }

  void abort(const std::string& reason) override {
    if (!reason_.empty()) return;
    reason_ = reason.substr(0, kLongestReason);
    Head head;
    head.kind = kFailure;
    head.bytes = reason_.size();
    std::string message(reinterpret_cast<char*>(&head), sizeof head);
    message += reason_;
    for (Peer& peer : peers_) {
      if (!peer.socket) continue;
      // Behind half a message it would be taken for the rest.
      if (!peer.sending) {
        if (send(peer.socket.file(), message.data(), message.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
          continue;
        }
      }
      shutdown(peer.socket.file(), SHUT_WR);
    }
  }

 private:
  struct Peer {
    Socket socket;
    bool sending = false;  // a message to it is half sent
  };

  // A message on its way.
  struct Flow {
    Message message;
    Head head;
    size_t done = 0;  // of head and bytes
    size_t total() const { return sizeof head + message.bytes; }
  };

  void receive_all(const MeetingPlace& place, Clock::time_point until) {
    int port = 0;
    Socket listener = listen_at(place.address, place.port, port);
    std::vector<Address> addresses(peers_.size());
    for (int missing = ranks - 1; missing > 0;) {
      auto [socket, greeting, host] = accept_rank(listener, place, until);
      if (!socket) continue;
      auto index = static_cast<size_t>(greeting.rank);
      std::snprintf(addresses[index].host, sizeof addresses[index].host, "%s", host.c_str());
      addresses[index].port = greeting.port;
      peers_[index].socket = std::move(socket);
      missing--;
    }
    for (size_t other = 1; other < peers_.size(); other++) {
      send_to(static_cast<int>(other), addresses.data(), addresses.size() * sizeof(Address), until);
    }
  }

  void come(const MeetingPlace& place, Clock::time_point until) {
    int port = 0;
    // Where ranks with higher numbers come to; on the interface by which rank 0 is reached.
    Socket first = connect_to(place.address, place.port, until);
    sockaddr_storage own{};
    socklen_t length = sizeof own;
    getsockname(first.file(), reinterpret_cast<sockaddr*>(&own), &length);
    char host[64] = {};
    getnameinfo(reinterpret_cast<sockaddr*>(&own), length, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
    Socket listener = listen_at(host, 0, port);
    peers_[0].socket = std::move(first);
    greet(0, place, port, until);
    std::vector<Address> addresses(peers_.size());
    char* at = reinterpret_cast<char*>(addresses.data());
    if (!transfer(peers_[0].socket.file(), at, addresses.size() * sizeof(Address), false, until)) {
      throw failure("rank 0 did not answer: the key is wrong, or not all ranks came");
    }
    for (int lower = 1; lower < rank; lower++) {
      auto index = static_cast<size_t>(lower);
      addresses[index].host[sizeof addresses[index].host - 1] = 0;
      peers_[index].socket =
          connect_to(addresses[index].host, static_cast<int>(addresses[index].port), until);
      greet(lower, place, port, until);
    }
    for (int missing = ranks - 1 - rank; missing > 0;) {
      auto [socket, greeting, name] = accept_rank(listener, place, until);
      if (!socket) continue;
      peers_[greeting.rank].socket = std::move(socket);
      missing--;
    }
  }

  void greet(int other, const MeetingPlace& place, int port, Clock::time_point until) {
    Greeting greeting;
    greeting.rank = static_cast<uint32_t>(rank);
    greeting.ranks = static_cast<uint32_t>(ranks);
    greeting.port = static_cast<uint32_t>(port);
    greeting.key_bytes = static_cast<uint32_t>(place.key.size());
    std::string message(reinterpret_cast<char*>(&greeting), sizeof greeting);
    message += place.key;
    send_to(other, message.data(), message.size(), until);
  }

  void send_to(int other, void* data, size_t bytes, Clock::time_point until) {
    if (transfer(peers_[static_cast<size_t>(other)].socket.file(), data, bytes, true, until)) return;
    throw failure(name_of(other) + " is gone");
  }

  struct Guest {
    Socket socket;
    Greeting greeting;
    std::string host;
  };

  // The next rank that comes; without a socket if it was none.
  Guest accept_rank(const Socket& listener, const MeetingPlace& place, Clock::time_point until) {
    if (!wait_for(listener.file(), POLLIN, until)) {
      std::string missing;
      for (int other = rank == 0 ? 1 : rank + 1; other < ranks; other++) {
        if (!peers_[static_cast<size_t>(other)].socket) {
          missing += (missing.empty() ? "" : ", ") + std::to_string(other);
        }
      }
      throw failure("of " + std::to_string(ranks) + " ranks did not come: " + missing);
    }
    sockaddr_storage from{};
    socklen_t length = sizeof from;
    Guest guest;
    guest.socket = Socket(
        accept4(listener.file(), reinterpret_cast<sockaddr*>(&from), &length, SOCK_CLOEXEC));
    if (!guest.socket) return {};
    int file = guest.socket.file();
    // A stranger must not hold up the ranks.
    auto soon = std::min(until, Clock::now() + std::chrono::seconds(5));
    Greeting& greeting = guest.greeting;
    if (!transfer(file, &greeting, sizeof greeting, false, soon) || greeting.magic != kMagic ||
        greeting.key_bytes != place.key.size()) {
      return {};
    }
    std::string key(place.key.size(), '\0');
    if (!transfer(file, key.data(), key.size(), false, soon)) return {};
    unsigned difference = 0;
    for (size_t i = 0; i < key.size(); i++) difference |= static_cast<unsigned>(key[i] ^ place.key[i]);
    if (difference != 0) return {};
    if (greeting.ranks != static_cast<uint32_t>(ranks)) {
      throw failure("a rank of " + std::to_string(greeting.ranks) + " came to one of " +
                    std::to_string(ranks));
    }
    if (greeting.rank >= greeting.ranks || static_cast<int>(greeting.rank) <= rank ||
        peers_[greeting.rank].socket) {
      throw failure("two processes are rank " + std::to_string(greeting.rank));
    }
    char host[64] = {};
    getnameinfo(reinterpret_cast<sockaddr*>(&from), length, host, sizeof host, nullptr, 0,
                NI_NUMERICHOST);
    guest.host = host;
    return guest;
  }

  void move(const std::vector<Message>& sends, const std::vector<Message>& receives,
            bool bounded) override {
    std::vector<Flow> out, in;
    for (const Message& message : sends) {
      Flow flow{message, {}, 0};
      flow.head.bytes = message.bytes;
      out.push_back(flow);
    }
    for (const Message& message : receives) in.push_back({message, {}, 0});
    auto until = Clock::now() + timeout_;
    std::vector<pollfd> watched;
    std::vector<Flow*> flows;
    for (;;) {
      watched.clear();
      flows.clear();
      for (Flow& flow : out) watch(flow, POLLOUT, watched, flows);
      for (Flow& flow : in) watch(flow, POLLIN, watched, flows);
      if (flows.empty()) return;
      int ready = poll(watched.data(), watched.size(), 1000);
      if (ready < 0 && errno != EINTR) throw failure(std::string("poll: ") + std::strerror(errno));
      for (size_t i = 0; ready > 0 && i < watched.size(); i++) {
        if (watched[i].revents == 0) continue;
        if (watched[i].events == POLLOUT) {
          send_some(*flows[i]);
        } else {
          receive_some(*flows[i]);
        }
        until = Clock::now() + timeout_;
      }
      if (!reason_.empty()) throw failure(reason_);
      if (bounded && Clock::now() > until) {
        throw failure(name_of(flows[0]->message.peer) + " did not answer within " +
                      std::to_string(timeout_.count()) + " ms");
      }
    }
  }

  void watch(Flow& flow, short events, std::vector<pollfd>& watched, std::vector<Flow*>& flows) {
    if (flow.done == flow.total()) return;
    watched.push_back({peers_[static_cast<size_t>(flow.message.peer)].socket.file(), events, 0});
    flows.push_back(&flow);
  }

  void send_some(Flow& flow) {
    Peer& peer = peers_[static_cast<size_t>(flow.message.peer)];
    while (flow.done < flow.total()) {
      bool in_head = flow.done < sizeof flow.head;
      const char* from = in_head ? reinterpret_cast<char*>(&flow.head) + flow.done
                                 : static_cast<char*>(flow.message.data) + flow.done - sizeof flow.head;
      size_t left = (in_head ? sizeof flow.head : flow.total()) - flow.done;
      bool more = in_head && flow.message.bytes > 0;
      ssize_t sent = send(peer.socket.file(), from, left,
                          MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
      if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (sent <= 0) throw gone(flow.message.peer);
      flow.done += static_cast<size_t>(sent);
      peer.sending = flow.done < flow.total();
    }
  }

  void receive_some(Flow& flow) {
    int file = peers_[static_cast<size_t>(flow.message.peer)].socket.file();
    while (flow.done < flow.total()) {
      bool in_head = flow.done < sizeof flow.head;
      char* to = in_head ? reinterpret_cast<char*>(&flow.head) + flow.done
                         : static_cast<char*>(flow.message.data) + flow.done - sizeof flow.head;
      size_t left = (in_head ? sizeof flow.head : flow.total()) - flow.done;
      ssize_t got = recv(file, to, left, MSG_DONTWAIT);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (got <= 0) throw failure(name_of(flow.message.peer) + " is gone");
      flow.done += static_cast<size_t>(got);
      if (in_head && flow.done == sizeof flow.head) check_head(flow);
    }
  }

  void check_head(const Flow& flow) {
    const auto& [magic, kind, bytes] = flow.head;
    if (magic == kMagic && kind == kFailure && bytes <= kLongestReason) {
      std::string reason(bytes, '\0');
      int file = peers_[static_cast<size_t>(flow.message.peer)].socket.file();
      if (!transfer(file, reason.data(), bytes, false, Clock::now() + std::chrono::seconds(1))) {
        reason = name_of(flow.message.peer) + " failed";
      }
      throw failure(reason);
    }
    if (magic == kMagic && kind == kData && bytes == flow.message.bytes) return;
    throw failure(name_of(flow.message.peer) + " is at another place of the step: it sends " +
                  std::to_string(bytes) + " bytes, not " + std::to_string(flow.message.bytes));
  }

  // A rank that can not be written to may have said why.
  Error gone(int other) {
    Flow flow{{other, nullptr, 0}, {}, 0};
    int file = peers_[static_cast<size_t>(other)].socket.file();
    if (transfer(file, &flow.head, sizeof flow.head, false, Clock::now() + std::chrono::seconds(1)) &&
        flow.head.kind == kFailure) {
      try {
        check_head(flow);
      } catch (const Error& error) {
        return error;
      }
    }
    return failure(name_of(other) + " is gone");
  }

  const std::chrono::milliseconds timeout_;
  std::vector<Peer> peers_;
};

}  // namespace

std::shared_ptr<PointToPoint> join_sockets(const MeetingPlace& place) {
  return std::make_shared<Sockets>(place);
}

}  // namespace hybridseek
