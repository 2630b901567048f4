// The kernels of wasm/engine built for this machine: wasm/engine/src/host.rs says the same in Rust.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hybridseek::cpu {

// How weights are stored.
enum Format : uint32_t { kF32 = 0, kF16 = 1, kInt8 = 2, kInt4 = 3 };

// What the threads of one kernel call share.
struct alignas(64) Pool {
  uint64_t next = 0;
  alignas(64) uint64_t done = 0;
};

struct Call {
  Pool* pool;
  size_t thread;
  size_t threads;
  void* scratch;
  size_t scratch_bytes;
};

struct Batch {
  size_t tokens;
  size_t sequences;
  size_t table_width;
  const int32_t* slots;
  const int32_t* query_starts;
  const int32_t* context_lengths;
  const int32_t* block_tables;
};

struct LatentSizes {
  size_t heads, nope, rope, rank, value, block_size;
  float scale, epsilon;
};

struct LatentPointers {
  const float *query, *latent, *norm_weight;
  const uint8_t* kv_b;
  Format format;
  const float *cos, *sin;
  float* cache;
  size_t cache_elements;
  float* y;
};

struct PagedSizes {
  size_t heads, groups, key_width, value_width, block_size;
  float scale;
  uint32_t interleaved;
};

struct PagedPointers {
  const float *query, *key, *value, *cos, *sin;
  float* key_cache;
  size_t key_elements;
  float* value_cache;
  size_t value_elements;
  float* y;
};

struct ExpertsSizes {
  size_t hidden, width, experts, first, held, k, groups, top_groups;
  float scaling;
  uint32_t normalize;
  Format format;
};

// Addresses of an expert's packed matrices.
struct ExpertPlace {
  uint64_t gate_up, down, used;
};

struct ExpertsPointers {
  size_t tokens;
  const float* x;
  const uint8_t* router;
  const ExpertPlace* places;
  float* y;
  int32_t* chosen;
  float* weights;
};

extern "C" {
size_t hybridseek_packed_bytes(Format, size_t rows, size_t columns);
void hybridseek_pack(Format, size_t rows, size_t columns, const void* source, const void* scales,
                     uint8_t* packed);

size_t hybridseek_kv_b_bytes(Format, const LatentSizes&);
void hybridseek_pack_kv_b(Format, const LatentSizes&, const void* source, uint8_t* packed);
size_t hybridseek_latent_scratch_bytes(const LatentSizes&, size_t tokens, size_t context,
                                       size_t threads);
void hybridseek_latent_attention(const Call&, const LatentSizes&, const Batch&, const LatentPointers&);

size_t hybridseek_paged_scratch_bytes(const PagedSizes&, size_t tokens, size_t context,
                                      size_t threads);
void hybridseek_paged_attention(const Call&, const PagedSizes&, const Batch&, const PagedPointers&);

size_t hybridseek_experts_scratch_bytes(const ExpertsSizes&, size_t tokens, size_t threads);
void hybridseek_sparse_experts(const Call&, const ExpertsSizes&, const ExpertsPointers&);
}

}  // namespace hybridseek::cpu
