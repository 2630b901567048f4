#include "communicator.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "../abi/ort.h"

namespace hybridseek {

namespace {

// Sums that are as quickly made by every rank as by one for all, numbers.
constexpr size_t kSmallSum = 16 * 1024;

std::mutex registry_mutex;
std::map<int64_t, std::weak_ptr<Communicator>> registry;

// Adds what the ranks gave, in their order; `parts` of this rank is where it always was.
void add_in_order(const std::vector<const float*>& parts, float* to, size_t count) {
  // In pieces that stay in a processor's cache.
  constexpr size_t kPiece = 4096;
  float sum[kPiece];
  for (size_t begin = 0; begin < count; begin += kPiece) {
    size_t length = std::min(kPiece, count - begin);
    std::memcpy(sum, parts[0] + begin, length * sizeof(float));
    for (size_t rank = 1; rank < parts.size(); rank++) {
      for (size_t i = 0; i < length; i++) sum[i] += parts[rank][begin + i];
    }
    std::memcpy(to + begin, sum, length * sizeof(float));
  }
}

float* writable(const float* data) { return const_cast<float*>(data); }

}  // namespace

int64_t register_communicator(const std::shared_ptr<Communicator>& communicator) {
  static int64_t next = 1;
  std::lock_guard<std::mutex> lock(registry_mutex);
  for (auto it = registry.begin(); it != registry.end();) {
    it = it->second.expired() ? registry.erase(it) : std::next(it);
  }
  registry[next] = communicator;
  return next++;
}

std::shared_ptr<Communicator> find_communicator(int64_t number) {
  std::lock_guard<std::mutex> lock(registry_mutex);
  auto known = registry.find(number);
  return known == registry.end() ? nullptr : known->second.lock();
}

void PointToPoint::exchange(const std::vector<Message>& sends, const std::vector<Message>& receives,
                            bool bounded) {
  if (!reason_.empty()) throw Error(kOrtFail, reason_);
  try {
    move(sends, receives, bounded);
  } catch (const Error& error) {
    abort(error.what());
    throw;
  }
}

void PointToPoint::all_reduce(const float* from, float* to, size_t count, void* stream) {
  auto size = static_cast<size_t>(ranks);
  if (count > kSmallSum) {
    std::vector<size_t> counts(size);
    for (size_t i = 0; i < size; i++) counts[i] = count * (i + 1) / size - count * i / size;
    std::vector<float> own(counts[static_cast<size_t>(rank)]);
    reduce_scatter(from, own.data(), counts, stream);
    return all_gather(own.data(), to, counts, stream);
  }
  std::vector<float> others(size * count);
  std::vector<const float*> parts(size);
  std::vector<Message> sends, receives;
  for (int other = 0; other < ranks; other++) {
    auto index = static_cast<size_t>(other);
    float* place = others.data() + index * count;
    parts[index] = other == rank ? from : place;
    if (other == rank) continue;
    sends.push_back({other, writable(from), count * sizeof(float)});
    receives.push_back({other, place, count * sizeof(float)});
  }
  exchange(sends, receives);
  add_in_order(parts, to, count);
}

void PointToPoint::all_gather(const float* from, float* to, const std::vector<size_t>& counts, void*) {
  std::vector<Message> sends, receives;
  float* place = to;
  size_t own = counts[static_cast<size_t>(rank)];
  for (int other = 0; other < ranks; other++) {
    size_t count = counts[static_cast<size_t>(other)];
    if (other == rank) {
      std::memcpy(place, from, own * sizeof(float));
    } else {
      sends.push_back({other, writable(from), own * sizeof(float)});
      receives.push_back({other, place, count * sizeof(float)});
    }
    place += count;
  }
  exchange(sends, receives);
}

void PointToPoint::reduce_scatter(const float* from, float* to, const std::vector<size_t>& counts, void*) {
  size_t own = counts[static_cast<size_t>(rank)];
  std::vector<float> others(static_cast<size_t>(ranks) * own);
  std::vector<const float*> parts(static_cast<size_t>(ranks));
  std::vector<Message> sends, receives;
  const float* part = from;
  for (int other = 0; other < ranks; other++) {
    auto index = static_cast<size_t>(other);
    float* place = others.data() + index * own;
    parts[index] = other == rank ? part : place;
    if (other != rank) {
      sends.push_back({other, writable(part), counts[index] * sizeof(float)});
      receives.push_back({other, place, own * sizeof(float)});
    }
    part += counts[index];
  }
  exchange(sends, receives);
  add_in_order(parts, to, own);
}

void PointToPoint::all_to_all(const float* from, float* to, const std::vector<size_t>& sent,
                              const std::vector<size_t>& received, void*) {
  std::vector<Message> sends, receives;
  for (int other = 0; other < ranks; other++) {
    size_t out = sent[static_cast<size_t>(other)], in = received[static_cast<size_t>(other)];
    if (other == rank) {
      std::memcpy(to, from, in * sizeof(float));
    } else {
      sends.push_back({other, writable(from), out * sizeof(float)});
      receives.push_back({other, to, in * sizeof(float)});
    }
    from += out;
    to += in;
  }
  exchange(sends, receives);
}

std::string PointToPoint::broadcast(const std::string& bytes) {
  uint64_t length = bytes.size();
  if (rank > 0) {
    exchange({}, {{0, &length, sizeof length}}, /*bounded*/ false);
    std::string received(length, '\0');
    exchange({}, {{0, received.data(), length}});
    return received;
  }
  std::vector<Message> lengths, contents;
  for (int other = 1; other < ranks; other++) {
    lengths.push_back({other, &length, sizeof length});
    contents.push_back({other, const_cast<char*>(bytes.data()), length});
  }
  exchange(lengths, {});
  exchange(contents, {});
  return bytes;
}

std::vector<std::string> PointToPoint::gather(const std::string& bytes) {
  uint64_t length = bytes.size();
  if (rank > 0) {
    exchange({{0, &length, sizeof length}}, {});
    exchange({{0, const_cast<char*>(bytes.data()), length}}, {});
    return {};
  }
  std::vector<uint64_t> sizes(static_cast<size_t>(ranks), length);
  std::vector<std::string> results(static_cast<size_t>(ranks));
  results[0] = bytes;
  std::vector<Message> lengths, contents;
  for (int other = 1; other < ranks; other++) {
    lengths.push_back({other, &sizes[static_cast<size_t>(other)], sizeof length});
  }
  exchange({}, lengths);
  for (int other = 1; other < ranks; other++) {
    auto index = static_cast<size_t>(other);
    results[index].resize(sizes[index]);
    contents.push_back({other, results[index].data(), sizes[index]});
  }
  exchange({}, contents);
  return results;
}

}  // namespace hybridseek
