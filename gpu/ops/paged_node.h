// What a step of a node PagedAttention has, checked, for the kernels of all providers.
// Letters: T tokens, H query heads, G key heads, W key width, V value width, P tokens per block.
#pragma once

#include "op.h"

namespace hybridseek {

enum PagedInput { kPagedQuery, kKey, kValue, kPagedCos, kPagedSin, kPagedSlots, kKeyCache = 9, kValueCache };

// For caches of a type, kAnyType if there are several.
Schema paged_schema(int cache);

// The inputs of a step but for its indices, with their shapes checked.
struct PagedStep {
  explicit PagedStep(const Run& run);

  int64_t blocks() const { return key_cache.dim(0); }
  int64_t block_size() const { return key_cache.dim(1); }
  int64_t groups() const { return key_cache.dim(2); }
  int64_t width() const { return key_cache.dim(3); }
  int64_t value_width() const { return value_cache.dim(3); }
  int64_t tokens() const { return query.dim(0); }
  int64_t heads() const { return query.dim(1) / width(); }

  Tensor key_cache, value_cache, query, key, value, cos, sin;

 private:
  Tensor fitting_query(const Run& run) const;
};

}  // namespace hybridseek
