#include "sparse_experts.h"

#include <algorithm>

#include "route.cuh"

namespace hybridseek {
namespace {

// Rows of an average expert from which arithmetic decides and not memory.
constexpr uint64_t kManyRows = 32;

// Cuts temporary memory into arrays; without memory it adds up their bytes.
class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <typename T>
  T* take(uint64_t count) {
    T* array = reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += (count * sizeof(T) + 255) / 256 * 256;
    return array;
  }
  uint64_t bytes() const { return bytes_; }

 private:
  char* memory_;
  uint64_t bytes_ = 0;
};

struct Arrays {
  Workspace space;
  uint64_t hits, most_tiles;
  bool many;
  float* logits;
  __nv_bfloat16* rounded;
  int32_t *starts, *tokens_of, *places, *tile_count;
  RowTile* tiles;
  __nv_bfloat16* inner;  // [hits, F]
  float* results;        // [hits, D]

  Arrays(const SparseExpertsShape& s, uint64_t tokens, void* memory) : space(memory) {
    hits = tokens * s.k;
    many = hits >= kManyRows * s.held;
    uint64_t rows = many ? ManyRows::kRows : FewRows::kRows, used = std::min<uint64_t>(s.held, hits);
    most_tiles = (hits + used * (rows - 1)) / rows;
    logits = space.take<float>(tokens * s.experts);
    rounded = space.take<__nv_bfloat16>(tokens * s.hidden);
    starts = space.take<int32_t>(s.held + 1);
    tokens_of = space.take<int32_t>(hits);
    places = space.take<int32_t>(hits);
    tile_count = space.take<int32_t>(1);
    tiles = space.take<RowTile>(most_tiles);
    inner = space.take<__nv_bfloat16>(hits * s.width);
    results = space.take<float>(hits * s.hidden);
  }
};

template <typename Weights, typename Tile>
cudaError_t multiply_experts(const SparseExpertsShape& s, const SparseExpertsTensors& t, const Arrays& a,
                             cudaStream_t stream) {
  GroupedGemm problem{};
  problem.tiles = a.tiles;
  problem.tile_count = a.tile_count;
  problem.starts = a.starts;
  problem.a = a.rounded;
  problem.row_of = a.tokens_of;
  problem.a_row = s.hidden;
  problem.weights = static_cast<const uint8_t*>(t.gate_up);
  problem.scales = t.gate_up_scales;
  problem.n = static_cast<int32_t>(2 * s.width);
  problem.k = static_cast<int32_t>(s.hidden);
  problem.out = a.inner;
  problem.out_row = s.width;
  auto tiles = static_cast<unsigned>(a.most_tiles);
  cudaError_t error = launch_grouped_gemm<Weights, Tile, StoreSwiGlu>(problem, tiles, 1, stream);
  if (error != cudaSuccess) return error;
  problem.a = a.inner;
  problem.row_of = nullptr;
  problem.a_row = s.width;
  problem.weights = static_cast<const uint8_t*>(t.down);
  problem.scales = t.down_scales;
  problem.n = static_cast<int32_t>(s.hidden);
  problem.k = static_cast<int32_t>(s.width);
  problem.out = a.results;
  problem.out_row = s.hidden;
  return launch_grouped_gemm<Weights, Tile, StoreF32>(problem, tiles, 1, stream);
}

template <typename Weights>
cudaError_t multiply_experts(const SparseExpertsShape& s, const SparseExpertsTensors& t, const Arrays& a,
                             cudaStream_t stream) {
  return a.many ? multiply_experts<Weights, ManyRows>(s, t, a, stream)
                : multiply_experts<Weights, FewRows>(s, t, a, stream);
}

unsigned pieces(uint64_t count, uint64_t of) { return static_cast<unsigned>((count + of - 1) / of); }

cudaError_t run(const SparseExpertsShape& s, const SparseExpertsTensors& t, uint32_t tokens,
                cudaStream_t stream) {
  Arrays a(s, tokens, t.workspace);
  auto count = static_cast<int>(tokens), hidden = static_cast<int>(s.hidden);
  auto hits = static_cast<int>(a.hits), k = static_cast<int>(s.k);
  // One token leaves most of the device idle if a warp has several rows of the router.
  constexpr int kTogether = 4;
  bool apart = tokens <= kRouterTokens;
  dim3 grid(pieces(s.experts, kRouterWarps * (apart ? 1 : kTogether)), pieces(tokens, kRouterTokens));
  auto* logits = apart ? router_logits<1> : router_logits<kTogether>;
  logits<<<grid, kRouterWarps * 32, 0, stream>>>(t.x, t.router, count, hidden,
                                                 static_cast<int>(s.experts), a.logits, a.rounded);
  choose_experts<<<pieces(tokens, kChoiceWarps), kChoiceWarps * 32, 0, stream>>>(a.logits, count, s,
                                                                                t.chosen, t.weights);
  sort_hits<<<s.held, kSortThreads, 0, stream>>>(
      t.chosen, hits, k, static_cast<int>(s.first), static_cast<int>(s.held),
      a.many ? ManyRows::kRows : FewRows::kRows, a.starts, a.tokens_of, a.places, a.tiles, a.tile_count);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  switch (s.format) {
    case SPARSE_EXPERTS_BF16: error = multiply_experts<Bf16Weights>(s, t, a, stream); break;
    case SPARSE_EXPERTS_INT8: error = multiply_experts<Int8Weights>(s, t, a, stream); break;
    case SPARSE_EXPERTS_INT4: error = multiply_experts<Int4Weights>(s, t, a, stream); break;
    default: error = multiply_experts<Fp8Weights>(s, t, a, stream); break;
  }
  if (error != cudaSuccess) return error;
  combine<<<dim3(tokens, pieces(s.hidden, 1024)), 256, 0, stream>>>(a.results, a.places, t.weights, k,
                                                                   hidden, t.y);
  return cudaGetLastError();
}

}  // namespace
}  // namespace hybridseek

extern "C" const char* sparse_experts_refusal(const SparseExpertsShape* s) {
  // Scales of blocks come in pairs.
  uint32_t widths = s->format == SPARSE_EXPERTS_BF16 ? 32 : 64;
  if (s->hidden == 0 || s->hidden % 64 != 0 || s->width == 0 || s->width % widths != 0) {
    return "hidden and expert width must be multiples of 64, the width of 32 for bf16 weights";
  }
  if (s->experts == 0 || s->experts > hybridseek::kMostExperts) return "experts can be 1 to 256";
  if (s->held == 0 || s->held > s->experts || s->first > s->experts - s->held) {
    return "the held experts must be among all experts";
  }
  if (s->groups == 0 || s->experts % s->groups != 0) return "groups must divide the experts";
  if (s->top_groups == 0 || s->top_groups > s->groups) return "top_groups can be 1 to groups";
  if (s->k == 0 || s->k > s->experts / s->groups * s->top_groups) {
    return "k can be 1 to the experts of top_groups groups";
  }
  if (s->format > SPARSE_EXPERTS_FP8) return "no such format";
  return nullptr;
}

extern "C" size_t sparse_experts_workspace(const SparseExpertsShape* shape, uint32_t tokens) {
  return hybridseek::Arrays(*shape, tokens, nullptr).space.bytes();
}

extern "C" int sparse_experts_run(const SparseExpertsShape* shape, const SparseExpertsTensors* tensors,
                                  uint32_t tokens, void* stream) {
  if (sparse_experts_refusal(shape) != nullptr || tokens > INT32_MAX / shape->k) {
    return cudaErrorInvalidValue;
  }
  if (tokens == 0) return cudaSuccess;
  return hybridseek::run(*shape, *tensors, tokens, static_cast<cudaStream_t>(stream));
}
