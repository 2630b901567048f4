#include "attention_plan.h"

#include <algorithm>
#include <map>
#include <vector>

namespace hybridseek {

namespace {

constexpr size_t kFloatWorkspace = size_t{128} << 20;

std::mutex registry_mutex;
std::map<int32_t, std::weak_ptr<AttentionPlan>>& registry() {
  static auto* plans = new std::map<int32_t, std::weak_ptr<AttentionPlan>>;
  return *plans;
}

}  // namespace

void AttentionPlan::reserve(size_t most_tokens, size_t sequences, size_t table_width) {
  if (!ints_.data()) {
    tables_ = cuda::Pinned(LATENT_ATTENTION_INT_WORKSPACE);
    ints_ = cuda::Buffer(LATENT_ATTENTION_INT_WORKSPACE);
    floats_ = cuda::Buffer(kFloatWorkspace);
  }
  size_t bytes = (most_tokens + sequences * table_width) * sizeof(int32_t);
  if (indices_.bytes() >= bytes) return;
  given_indices_ = cuda::Pinned(bytes);
  indices_ = cuda::Buffer(bytes);
}

void AttentionPlan::make(const cpu::Batch& batch, uint32_t head_count, uint32_t rows) {
  reserve(batch.tokens, batch.sequences, batch.table_width);
  auto* at = static_cast<int32_t*>(given_indices_.data());
  auto* end = at + batch.tokens + batch.sequences * batch.table_width;
  at = std::copy_n(batch.slots, batch.tokens, at);
  std::vector<int32_t> starts{0}, lengths, block_starts{0};
  causal = false;
  for (size_t b = 0; b < batch.sequences; b++) {
    int32_t queries = batch.query_starts[b + 1] - batch.query_starts[b];
    if (queries == 0) continue;
    causal |= queries > 1;
    size_t used = (static_cast<size_t>(batch.context_lengths[b]) + rows - 1) / rows;
    at = std::copy_n(batch.block_tables + b * batch.table_width, used, at);
    starts.push_back(batch.query_starts[b + 1]);
    lengths.push_back(batch.context_lengths[b]);
    block_starts.push_back(block_starts.back() + static_cast<int32_t>(used));
  }
  std::fill(at, end, 0);
  int code = latent_attention_plan(starts.data(), block_starts.data(), lengths.data(),
                                   static_cast<uint32_t>(lengths.size()), head_count, rows, causal,
                                   tables_.data(), kFloatWorkspace, &plan);
  cuda::check(code, "the plan of LatentAttention");
  tokens = batch.tokens;
  heads = head_count;
  block_size = rows;
  index_bytes_ = static_cast<size_t>(end - static_cast<int32_t*>(given_indices_.data())) * sizeof(int32_t);
  uploader_ = nullptr;
}

void AttentionPlan::upload(const void* layer, void* stream) {
  if (uploader_ && uploader_ != layer) return;
  auto copy = [&](void* to, const void* from, size_t bytes) {
    cuda::check(cudaMemcpyAsync(to, from, bytes, cuda::kToDevice, stream), "cudaMemcpyAsync");
  };
  copy(ints_.data(), tables_.data(), plan.staged_bytes);
  copy(indices_.data(), given_indices_.data(), index_bytes_);
  uploader_ = layer;
}

int32_t register_plan(const std::shared_ptr<AttentionPlan>& plan) {
  static int32_t next = 1;
  std::lock_guard<std::mutex> lock(registry_mutex);
  auto& plans = registry();
  for (auto it = plans.begin(); it != plans.end();) {
    it = it->second.expired() ? plans.erase(it) : std::next(it);
  }
  plans[next] = plan;
  return next++;
}

std::shared_ptr<AttentionPlan> find_plan(int32_t number) {
  std::lock_guard<std::mutex> lock(registry_mutex);
  auto known = registry().find(number);
  return known == registry().end() ? nullptr : known->second.lock();
}

}  // namespace hybridseek
