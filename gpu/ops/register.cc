// The entry of an op library: onnxruntime calls it for every session that is to have the ops.
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>

#include "ops.h"
#include "step_batch.h"

namespace hybridseek {

namespace {

std::atomic<size_t> copies{0};

// Every op, once for each provider that has a kernel of it.
std::vector<std::unique_ptr<Op>> make_ops(const OrtFunctions& ort) {
  std::vector<std::unique_ptr<Op>> ops;
#ifdef HYBRIDSEEK_CUDA
  ops.push_back(latent_attention_cuda(ort));
  ops.push_back(paged_attention_cuda(ort));
  ops.push_back(sparse_experts_cuda(ort));
#endif
  ops.push_back(sparse_experts_host(ort));
#ifndef HYBRIDSEEK_EMULATED_CUDA
  ops.push_back(latent_attention_cpu(ort));
  ops.push_back(paged_attention_cpu(ort));
  ops.push_back(sparse_experts_cpu(ort));
#endif
  for (auto& op : collectives(ort)) ops.push_back(std::move(op));
  return ops;
}

// A library of onnxruntime and the ops for it. Sessions refer to them as long as they live.
struct Registry {
  explicit Registry(const void* table) : ort(table), ops(make_ops(ort)) {}
  const OrtFunctions ort;
  const std::vector<std::unique_ptr<Op>> ops;
};

const Registry& registry_of(const void* table) {
  static std::mutex mutex;
  static std::map<const void*, std::unique_ptr<Registry>> registries;
  std::lock_guard<std::mutex> lock(mutex);
  auto& registry = registries[table];
  if (!registry) registry = std::make_unique<Registry>(table);
  return *registry;
}

bool processor_suffices() {
#ifdef __x86_64__
  return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
#else
  return true;
#endif
}

}  // namespace

size_t cache_copies() { return copies; }

void count_cache_copy() { copies++; }

float* writable_cache(const Run& run, const Tensor& cache, size_t output) {
  void* written = run.output(output, cache.type.dims);
  if (written != cache.data) {
    count_cache_copy();
    std::memcpy(written, cache.data, cache.type.count() * sizeof(float));
  }
  return static_cast<float*>(written);
}

}  // namespace hybridseek

using namespace hybridseek;

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const void* table = base->GetApi(kOrtApiVersion);
  if (!table) {
    auto create_status = *static_cast<OrtStatus* (*const*)(int, const char*)>(base->GetApi(1));
    std::string found = base->GetVersionString();
    return create_status(kOrtNotImplemented, ("Cannot use hybridseek's ops: onnxruntime is " + found +
                                              ", 1.17 or later is needed.").c_str());
  }
  const Registry& registry = registry_of(table);
  const OrtFunctions& ort = registry.ort;
  if (!processor_suffices()) {
    return ort.CreateStatus(kOrtNotImplemented,
                            "Cannot use hybridseek's kernels: this processor lacks the instructions "
                            "of x86-64-v2 (SSE4.2); use the backends wasm or ort.");
  }
  OrtCustomOpDomain* domain = nullptr;
  if (OrtStatus* status = ort.CreateCustomOpDomain("hybridseek", &domain)) return status;
  for (auto& op : registry.ops) {
    if (OrtStatus* status = ort.CustomOpDomain_Add(domain, op.get())) return status;
  }
  return ort.AddCustomOpDomain(options, domain);
}

// How often a cache was copied in this process, for tests.
extern "C" __attribute__((visibility("default"))) size_t hybridseek_cache_copies() {
  return cache_copies();
}
