// What a node LatentAttention says of itself, checked, for the kernels of all providers.
// Letters: T tokens, H heads, N nope dim, R rope dim, C latent rank, V value dim, P tokens per block.
#pragma once

#include "cpu_kernels.h"
#include "op.h"

namespace hybridseek {

enum LatentInput { kQuery, kLatent, kNormWeight, kKvB, kCos, kSin, kSlots, kCache = 10, kPlan };

// For caches of a type, kAnyType if there are several.
Schema latent_schema(int cache);

struct LatentNode {
  // Throws what is wrong with the node.
  explicit LatentNode(const NodeInfo& node);

  Tensor kv_b;             // f32 or f16 [H, N+V, C]
  cpu::LatentSizes sizes;  // without block_size, which the cache says
};

// The inputs and outputs of a step but for its indices, with their shapes checked.
struct LatentStep {
  LatentStep(const Run& run, const cpu::LatentSizes& sizes);

  Tensor query, latent, norm_weight, cos, sin, cache;
  int64_t tokens;
};

}  // namespace hybridseek
