#include "cuda_selftest.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "cuda_kernel.h"
#include "latent_attention/latent_attention.h"
#include "paged_attention/paged_attention.h"
#include "sparse_experts/sparse_experts.h"

namespace hybridseek {

namespace {

constexpr int kRepeats = 20;

// Repeatable numbers: splitmix64.
class Random {
 public:
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // Of mean 0 and variance 1.
  float number() {
    uint64_t b = bits();
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += static_cast<double>(b >> (16 * i) & 0xffff) / 65535;
    return static_cast<float>((sum - 2) * std::sqrt(3.0));
  }
  std::vector<float> numbers(size_t count, double scale = 1) {
    std::vector<float> all(count);
    for (float& value : all) value = static_cast<float>(number() * scale);
    return all;
  }

 private:
  uint64_t state_ = 1;
};

double of_bf16(uint16_t bits) {
  uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}
double of_half(uint16_t bits) { return std::ldexp(1024 + (bits & 1023), (bits >> 10 & 31) - 25); }  // normal, positive
double of_fp8(uint8_t bits) {
  int exponent = bits >> 3 & 15, fraction = bits & 7;
  double size = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return bits & 128 ? -size : size;
}
uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
std::vector<uint16_t> to_bf16(const std::vector<float>& values) {
  std::vector<uint16_t> all(values.size());
  std::transform(values.begin(), values.end(), all.begin(), [](float v) { return to_bf16(v); });
  return all;
}

template <typename T>
cuda::Buffer upload(const std::vector<T>& values) {
  cuda::Buffer buffer(std::max<size_t>(values.size() * sizeof(T), 16));
  cuda::check(cudaMemcpyAsync(buffer.data(), values.data(), values.size() * sizeof(T), cuda::kToDevice, nullptr),
              "cudaMemcpyAsync");
  return buffer;
}
std::vector<float> download(const cuda::Buffer& buffer, size_t count) {
  std::vector<float> values(count);
  cuda::check(cudaMemcpyAsync(values.data(), buffer.data(), count * 4, cuda::kToHost, nullptr), "cudaMemcpyAsync");
  cuda::check(cudaStreamSynchronize(nullptr), "the kernels");
  return values;
}

double relative_error(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0, most = 0;
  for (size_t i = 0; i < want.size(); i++) {
    double difference = std::abs(got[i] - want[i]);
    if (!(difference <= error)) error = difference;  // a NaN stays
    most = std::max(most, std::abs(want[i]));
  }
  return error / most;
}

template <typename F>
double microseconds_of(F run) {
  run();
  cuda::check(cudaStreamSynchronize(nullptr), "the kernels");
  auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kRepeats; i++) run();
  cuda::check(cudaStreamSynchronize(nullptr), "the kernels");
  std::chrono::duration<double, std::micro> all = std::chrono::steady_clock::now() - begin;
  return all.count() / kRepeats;
}

// What the device needs for reading so many bytes; 0 if it does not say how fast its memory is.
double least_microseconds(double bytes) {
  double per_second = 2e3 * cuda::attribute(cuda::kMemoryClock) * cuda::attribute(cuda::kMemoryBus) / 8;
  return per_second > 0 ? bytes / per_second * 1e6 : 0;
}

// Matrices of random bits: [held, rows, columns] of a format, with scales for about the size of `scale`.
struct Matrices {
  std::vector<uint8_t> bytes;
  std::vector<uint8_t> scales;
  size_t columns;
  uint32_t format;

  Matrices(Random& random, uint32_t format, size_t rows, size_t columns) : columns(columns), format(format) {
    static const size_t bits[] = {16, 8, 4, 8};
    bytes.resize(rows * columns * bits[format] / 8);
    for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
      uint64_t word = random.bits();
      std::memcpy(&bytes[i], &word, 8);
    }
    auto add = [&](auto value) {
      auto from = reinterpret_cast<const uint8_t*>(&value);
      scales.insert(scales.end(), from, from + sizeof value);
    };
    if (format == SPARSE_EXPERTS_BF16) {
      for (size_t i = 0; i < rows * columns; i++) {
        uint16_t element = to_bf16(static_cast<float>(random.number() / std::sqrt(columns)));
        std::memcpy(&bytes[2 * i], &element, 2);
      }
    } else if (format == SPARSE_EXPERTS_FP8) {
      for (uint8_t& byte : bytes) byte &= 0xbf;  // below 2
      for (size_t i = 0; i < rows; i++) add(static_cast<float>((1 + i % 3) / std::sqrt(columns)));
    } else {
      // Levels are about 4.6 and 74 from the middle.
      double size = 1 / std::sqrt(columns) / (format == SPARSE_EXPERTS_INT4 ? 4.6 : 74);
      auto exponent = static_cast<uint16_t>(std::clamp(15 + std::ilogb(size), 1, 30));
      for (size_t i = 0; i < rows * columns / 32; i++) {
        add(static_cast<uint16_t>(exponent << 10 | (random.bits() & 1023)));
      }
    }
  }

  double at(size_t row, size_t column) const {
    size_t i = row * columns + column;
    auto number = [&](size_t j, auto zero) {
      std::memcpy(&zero, &scales[j * sizeof zero], sizeof zero);
      return zero;
    };
    switch (format) {
      case SPARSE_EXPERTS_BF16: return of_bf16(static_cast<uint16_t>(bytes[2 * i] | bytes[2 * i + 1] << 8));
      case SPARSE_EXPERTS_FP8: return of_fp8(bytes[i]) * number(row, float{});
      case SPARSE_EXPERTS_INT8: return (bytes[i] - 128) * of_half(number(i / 32, uint16_t{}));
      default: return ((bytes[i / 2] >> (i % 2 * 4) & 15) - 8) * of_half(number(i / 32, uint16_t{}));
    }
  }
};

// A layer of experts on the device.
struct ExpertsLayer {
  SparseExpertsShape shape;
  uint32_t tokens;
  std::vector<float> x, router;
  Matrices gate_up, down;
  cuda::Buffer buffers[9];
  SparseExpertsTensors tensors{};

  ExpertsLayer(Random& random, const SparseExpertsShape& shape, uint32_t tokens)
      : shape(shape),
        tokens(tokens),
        x(random.numbers(size_t{tokens} * shape.hidden)),
        router(random.numbers(size_t{shape.experts} * shape.hidden, 2 / std::sqrt(shape.hidden))),
        gate_up(random, shape.format, size_t{shape.held} * 2 * shape.width, shape.hidden),
        down(random, shape.format, size_t{shape.held} * shape.hidden, shape.width) {
    size_t hits = size_t{tokens} * shape.k;
    cuda::Buffer all[] = {upload(x), upload(router), upload(gate_up.bytes), upload(gate_up.scales),
                          upload(down.bytes), upload(down.scales), cuda::Buffer(x.size() * 4),
                          cuda::Buffer(hits * 8), cuda::Buffer(sparse_experts_workspace(&shape, tokens))};
    for (size_t i = 0; i < std::size(all); i++) buffers[i] = std::move(all[i]);
    auto choice = static_cast<int32_t*>(buffers[7].data());
    tensors = {static_cast<float*>(buffers[0].data()), static_cast<float*>(buffers[1].data()),
               buffers[2].data(), buffers[3].data(), buffers[4].data(), buffers[5].data(),
               static_cast<float*>(buffers[6].data()), choice, reinterpret_cast<float*>(choice + hits),
               buffers[8].data()};
  }

  void run() const { cuda::check(sparse_experts_run(&shape, &tensors, tokens, nullptr), "SparseExperts"); }

  std::vector<double> expected() const {
    size_t d = shape.hidden, f = shape.width;
    std::vector<double> y(x.size());
    for (size_t t = 0; t < tokens; t++) {
      std::vector<double> scores(shape.experts);
      double sum = 0;
      for (size_t e = 0; e < shape.experts; e++) {
        double logit = 0;
        for (size_t i = 0; i < d; i++) logit += double{x[t * d + i]} * router[e * d + i];
        sum += scores[e] = std::exp(logit);
      }
      std::vector<size_t> order(shape.experts);
      for (size_t e = 0; e < order.size(); e++) order[e] = e;
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
      for (size_t j = 0; j < shape.k; j++) {
        size_t e = order[j];
        std::vector<double> inner(f);
        for (size_t r = 0; r < f; r++) {
          double gate = 0, up = 0;
          for (size_t i = 0; i < d; i++) {
            gate += x[t * d + i] * gate_up.at((e * f + r) * 2, i);
            up += x[t * d + i] * gate_up.at((e * f + r) * 2 + 1, i);
          }
          inner[r] = gate / (1 + std::exp(-gate)) * up;
        }
        for (size_t i = 0; i < d; i++) {
          double out = 0;
          for (size_t r = 0; r < f; r++) out += inner[r] * down.at(e * d + i, r);
          y[t * d + i] += scores[e] / sum * shape.scaling * out;
        }
      }
    }
    return y;
  }
};

SparseExpertsShape experts_shape(uint32_t hidden, uint32_t width, uint32_t experts, uint32_t k, uint32_t format) {
  return {hidden, width, experts, /*first*/ 0, experts, k, /*groups*/ 1, /*top_groups*/ 1, /*normalize*/ 0,
          /*scaling*/ 1, format};
}

SelftestResult test_experts(const char* name, uint32_t format, bool timed) {
  Random random;
  SelftestResult result{std::string("experts, ") + name, 0, 1e-2, 0, 0};
  // Few rows of an expert, and many.
  for (uint32_t tokens : {5u, 70u}) {
    ExpertsLayer layer(random, experts_shape(128, 64, tokens == 5 ? 16 : 2, 2, format), tokens);
    layer.run();
    double error = relative_error(download(layer.buffers[6], layer.x.size()), layer.expected());
    if (!(error <= result.error)) result.error = error;
  }
  if (timed) {
    // So many tokens that every expert is used and no cache of the device holds them all.
    ExpertsLayer layer(random, experts_shape(2048, 1408, 64, 6, format), 64);
    result.microseconds = microseconds_of([&] { layer.run(); });
    auto bytes = layer.gate_up.bytes.size() + layer.gate_up.scales.size() + layer.down.bytes.size() +
                 layer.down.scales.size();
    result.least = least_microseconds(static_cast<double>(bytes));
  }
  return result;
}

// A layer of latent attention on the device, without its projections: queries in the latent space.
struct AttentionLayer {
  static constexpr uint32_t kBlock = 16;
  uint32_t heads, width, row_width;  // columns of the latent, and with those of the rotated key
  std::vector<int32_t> starts{0}, block_starts{0}, contexts;
  std::vector<uint16_t> latent, rotary;
  std::vector<uint8_t> cache;
  bool fp8;
  LatentAttentionPlan plan{};
  cuda::Buffer buffers[7];
  LatentAttentionTensors tensors{};
  AttentionKernel kernel;

  AttentionLayer(Random& random, AttentionKernel kernel, bool fp8, uint32_t width, uint32_t rotary_width,
                 uint32_t heads, const std::vector<std::pair<int, int>>& sequences)
      : heads(heads), width(width), row_width(width + rotary_width), fp8(fp8), kernel(kernel) {
    for (auto [queries, context] : sequences) {
      starts.push_back(starts.back() + queries);
      contexts.push_back(context);
      block_starts.push_back(block_starts.back() + (context + static_cast<int>(kBlock) - 1) / static_cast<int>(kBlock));
    }
    size_t rows = static_cast<size_t>(block_starts.back()) * kBlock, vectors = size_t(starts.back()) * heads;
    latent = to_bf16(random.numbers(vectors * width));
    rotary = to_bf16(random.numbers(vectors * rotary_width));
    cache.resize(rows * row_width * (fp8 ? 1 : 2));
    for (size_t i = 0; i < rows * row_width; i++) {
      if (fp8) {
        cache[i] = static_cast<uint8_t>(random.bits() & 0xbf);
      } else {
        uint16_t element = to_bf16(random.number() / 2);
        std::memcpy(&cache[2 * i], &element, 2);
      }
    }
    std::vector<int32_t> blocks(static_cast<size_t>(block_starts.back()));
    for (size_t i = 0; i < blocks.size(); i++) blocks[i] = static_cast<int32_t>(i);
    std::vector<uint8_t> tables(LATENT_ATTENTION_INT_WORKSPACE);
    constexpr size_t kFloats = size_t{128} << 20;
    cuda::check(latent_attention_plan(starts.data(), block_starts.data(), contexts.data(),
                                      static_cast<uint32_t>(contexts.size()), heads, kBlock, 1, tables.data(),
                                      kFloats, &plan),
                "the plan of LatentAttention");
    tables.resize(plan.staged_bytes);
    cuda::Buffer all[] = {upload(latent), upload(rotary), upload(cache), upload(blocks),
                          cuda::Buffer(latent.size() * 2), upload(tables), cuda::Buffer(kFloats)};
    for (size_t i = 0; i < std::size(all); i++) buffers[i] = std::move(all[i]);
    tensors = {buffers[0].data(), buffers[1].data(), buffers[2].data(),
               static_cast<int32_t*>(buffers[3].data()), buffers[4].data(), nullptr, buffers[5].data(),
               buffers[6].data(), kScale, 1, width, rotary_width};
  }

  static constexpr float kScale = 0.0721687836f;  // 192^-0.5

  void run() const { cuda::check(kernel(&plan, &tensors, 1, nullptr), "LatentAttention"); }

  std::vector<float> results() const {
    std::vector<uint16_t> bits(latent.size());
    cuda::check(cudaMemcpyAsync(bits.data(), buffers[4].data(), bits.size() * 2, cuda::kToHost, nullptr),
                "cudaMemcpyAsync");
    cuda::check(cudaStreamSynchronize(nullptr), "the kernels");
    std::vector<float> values(bits.size());
    std::transform(bits.begin(), bits.end(), values.begin(), [](uint16_t b) { return static_cast<float>(of_bf16(b)); });
    return values;
  }

  double cached(size_t row, size_t column) const {
    size_t i = row * row_width + column;
    return fp8 ? of_fp8(cache[i]) : of_bf16(static_cast<uint16_t>(cache[2 * i] | cache[2 * i + 1] << 8));
  }

  std::vector<double> expected() const {
    std::vector<double> all(latent.size());
    for (size_t b = 0; b < contexts.size(); b++) {
      int queries = starts[b + 1] - starts[b];
      for (int q = 0; q < queries; q++) {
        for (size_t h = 0; h < heads; h++) {
          size_t vector = static_cast<size_t>(starts[b] + q) * heads + h;
          auto visible = static_cast<size_t>(contexts[b] - queries + q + 1);
          size_t first = static_cast<size_t>(block_starts[b]) * kBlock;
          std::vector<double> powers(visible);
          double sum = 0;
          for (size_t s = 0; s < visible; s++) {
            double score = 0;
            for (size_t c = 0; c < row_width; c++) {
              uint16_t bits = c < width ? latent[vector * width + c]
                                        : rotary[vector * (row_width - width) + c - width];
              score += of_bf16(bits) * cached(first + s, c);
            }
            sum += powers[s] = std::exp(score * kScale);
          }
          for (size_t c = 0; c < width; c++) {
            double out = 0;
            for (size_t s = 0; s < visible; s++) out += powers[s] * cached(first + s, c);
            all[vector * width + c] = out / sum;
          }
        }
      }
    }
    return all;
  }
};

SelftestResult test_attention(const char* name, bool fp8, uint32_t width, uint32_t rotary, bool timed) {
  SelftestResult result{std::string("latent attention, ") + name, 0, 6e-3, 0, 0};
  AttentionKernel kernel = attention_kernel(fp8, width, rotary);
  Random random;
  AttentionLayer layer(random, kernel, fp8, width, rotary, 4, {{1, 70}, {9, 33}, {1, 1}});
  layer.run();
  result.error = relative_error(layer.results(), layer.expected());
  if (timed) {
    std::vector<std::pair<int, int>> sequences(64, {1, 4096});
    AttentionLayer big(random, kernel, fp8, width, rotary, 16, sequences);
    result.microseconds = microseconds_of([&] { big.run(); });
    result.least = least_microseconds(static_cast<double>(big.cache.size()));
  }
  return result;
}

// A layer of attention over paged keys and values on the device. A block's keys and values are those of one
// sequence, in turn.
struct PagedLayer {
  static constexpr size_t kBlock = 16;
  PagedAttentionPlan plan{};
  std::vector<int32_t> starts{0}, block_starts{0}, contexts, slots;
  std::vector<float> query, key, value, cos, sin;
  std::vector<uint16_t> keys, values;
  cuda::Buffer buffers[13];
  PagedAttentionTensors tensors{};

  PagedLayer(Random& random, uint32_t heads, uint32_t groups, uint32_t width,
             const std::vector<std::pair<int, int>>& sequences) {
    for (auto [queries, context] : sequences) {
      for (int i = context - queries; i < context; i++) {
        slots.push_back(block_starts.back() * static_cast<int32_t>(kBlock) + i);
      }
      starts.push_back(starts.back() + queries);
      contexts.push_back(context);
      block_starts.push_back(block_starts.back() + (context + static_cast<int>(kBlock) - 1) / static_cast<int>(kBlock));
    }
    size_t tokens = slots.size(), rows = static_cast<size_t>(block_starts.back()) * kBlock;
    query = random.numbers(tokens * heads * width);
    key = random.numbers(tokens * groups * width);
    value = random.numbers(tokens * groups * width);
    for (size_t i = 0; i < tokens * width / 2; i++) {
      float angle = random.number();
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    keys = to_bf16(random.numbers(rows * groups * width));
    values = to_bf16(random.numbers(rows * groups * width));
    std::vector<int32_t> blocks(static_cast<size_t>(block_starts.back()));
    for (size_t i = 0; i < blocks.size(); i++) blocks[i] = static_cast<int32_t>(i);
    auto count = [](size_t n) { return static_cast<uint32_t>(n); };
    plan.tokens = count(tokens), plan.sequences = count(sequences.size()), plan.heads = heads, plan.groups = groups;
    plan.width = plan.value_width = width, plan.block_size = kBlock;
    std::vector<uint8_t> tables(size_t{8} << 20);
    constexpr size_t kFloats = size_t{64} << 20;
    cuda::check(paged_attention_plan(starts.data(), block_starts.data(), contexts.data(), tables.data(), tables.size(),
                                     kFloats, &plan),
                "the plan of PagedAttention");
    tables.resize(plan.staged_bytes);
    cuda::Buffer all[] = {upload(query),  upload(key),    upload(value), upload(cos),
                          upload(sin),    upload(slots),  upload(blocks), upload(keys),
                          upload(values), cuda::Buffer(query.size() * 2), cuda::Buffer(query.size() * 4),
                          upload(tables), cuda::Buffer(kFloats)};
    for (size_t i = 0; i < std::size(all); i++) buffers[i] = std::move(all[i]);
    auto floats = [&](size_t i) { return static_cast<float*>(buffers[i].data()); };
    auto ints = [&](size_t i) { return static_cast<int32_t*>(buffers[i].data()); };
    tensors = {floats(0), floats(1), floats(2), floats(3), floats(4), ints(5), ints(6), /*interleaved*/ 0,
               buffers[7].data(), buffers[8].data(), buffers[9].data(), floats(10), buffers[11].data(),
               buffers[12].data(), scale()};
  }

  float scale() const { return 1 / std::sqrt(static_cast<float>(plan.width)); }

  void append() const { cuda::check(paged_attention_append(&plan, &tensors, nullptr), "PagedAttention"); }
  void attend() const { cuda::check(paged_attention_attend(&plan, &tensors, nullptr), "PagedAttention"); }

  // A head of a token, rotated and rounded.
  std::vector<double> rotated(const std::vector<float>& from, size_t vector, size_t token) const {
    size_t width = plan.width, half = width / 2;
    std::vector<double> into(width);
    const float *a = &from[vector * width], *c = &cos[token * half], *s = &sin[token * half];
    for (size_t i = 0; i < half; i++) {
      into[i] = of_bf16(to_bf16(a[i] * c[i] - a[i + half] * s[i]));
      into[i + half] = of_bf16(to_bf16(a[i + half] * c[i] + a[i] * s[i]));
    }
    return into;
  }

  std::vector<double> expected() const {
    size_t width = plan.width, heads = plan.heads, groups = plan.groups;
    std::vector<double> cached_keys, cached_values, all(query.size());
    for (uint16_t bits : keys) cached_keys.push_back(of_bf16(bits));
    for (uint16_t bits : values) cached_values.push_back(of_bf16(bits));
    for (size_t t = 0; t < slots.size(); t++) {
      for (size_t g = 0; g < groups; g++) {
        size_t at = (static_cast<size_t>(slots[t]) * groups + g) * width, from = t * groups + g;
        std::vector<double> row = rotated(key, from, t);
        for (size_t i = 0; i < width; i++) {
          cached_keys[at + i] = row[i];
          cached_values[at + i] = of_bf16(to_bf16(value[from * width + i]));
        }
      }
    }
    for (size_t b = 0; b < contexts.size(); b++) {
      auto first = static_cast<size_t>(block_starts[b]) * kBlock;
      for (auto t = static_cast<size_t>(starts[b]); t < static_cast<size_t>(starts[b + 1]); t++) {
        auto visible = static_cast<size_t>(slots[t]) - first + 1;
        for (size_t h = 0; h < heads; h++) {
          std::vector<double> asked = rotated(query, t * heads + h, t), powers(visible);
          auto row = [&](size_t s) { return ((first + s) * groups + h / (heads / groups)) * width; };
          double sum = 0;
          for (size_t s = 0; s < visible; s++) {
            double score = 0;
            for (size_t i = 0; i < width; i++) score += asked[i] * cached_keys[row(s) + i];
            sum += powers[s] = std::exp(score * scale());
          }
          for (size_t i = 0; i < width; i++) {
            double out = 0;
            for (size_t s = 0; s < visible; s++) out += powers[s] * cached_values[row(s) + i];
            all[(t * heads + h) * width + i] = out / sum;
          }
        }
      }
    }
    return all;
  }
};

SelftestResult test_paged(const char* name, uint32_t width, bool timed) {
  SelftestResult result{std::string("paged attention, ") + name, 0, 6e-3, 0, 0};
  Random random;
  for (uint32_t groups : {4u, 1u}) {
    PagedLayer layer(random, 4, groups, width, {{1, 70}, {20, 33}, {1, 1}});
    layer.append();
    layer.attend();
    double error = relative_error(download(layer.buffers[10], layer.query.size()), layer.expected());
    if (!(error <= result.error)) result.error = error;
  }
  if (timed) {
    std::vector<std::pair<int, int>> sequences(8, {1, 1024});
    PagedLayer big(random, 32, 32, width, sequences);
    big.append();
    result.microseconds = microseconds_of([&] { big.attend(); });
    result.least = least_microseconds(static_cast<double>(big.keys.size() + big.values.size()) * 2);
  }
  return result;
}

}  // namespace

std::vector<SelftestResult> cuda_selftest(bool timed) {
  cuda::open();
  std::vector<SelftestResult> results;
  results.push_back(test_experts("bf16", SPARSE_EXPERTS_BF16, timed));
  results.push_back(test_experts("int8", SPARSE_EXPERTS_INT8, timed));
  results.push_back(test_experts("int4", SPARSE_EXPERTS_INT4, timed));
  results.push_back(test_experts("fp8", SPARSE_EXPERTS_FP8, timed));
  auto attention = [&](const char* name, bool fp8, uint32_t width, uint32_t rotary) {
    if (attention_kernel(fp8, width, rotary)) results.push_back(test_attention(name, fp8, width, rotary, timed));
  };
  attention("bf16 cache", false, LATENT_ATTENTION_LATENT, LATENT_ATTENTION_ROTARY);
  attention("fp8 cache", true, LATENT_ATTENTION_LATENT, LATENT_ATTENTION_ROTARY);
  attention("256 + 32 columns", false, 256, 32);
  results.push_back(test_paged("heads of 128", 128, timed));
  results.push_back(test_paged("heads of 64", 64, timed));
  return results;
}

}  // namespace hybridseek
