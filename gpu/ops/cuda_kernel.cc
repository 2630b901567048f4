#include "cuda_kernel.h"

#ifdef HYBRIDSEEK_EMULATED_CUDA
extern "C" int cudaHostRegister(void* memory, size_t bytes, unsigned flags);
extern "C" int cudaHostUnregister(void* memory);
extern "C" int cudaPointerGetAttributes(void* attributes, const void* pointer);
#endif

namespace hybridseek {

namespace {

OrtMemoryInfo* device_memory(const OrtFunctions& ort) {
  cuda::open();
  OrtMemoryInfo* info = nullptr;
#ifdef HYBRIDSEEK_EMULATED_CUDA
  check(ort, ort.CreateCpuMemoryInfo(/*arena*/ 1, /*default memory*/ 0, &info));
#else
  check(ort, ort.CreateMemoryInfo("Cuda", /*arena*/ 1, cuda::device(), /*default memory*/ 0, &info));
#endif
  return info;
}

size_t element_bytes(int type) {
  switch (type) {
    case kFloat:
    case kInt32: return 4;
    case kFloat16:
    case kBfloat16: return 2;
    case kInt64: return 8;
    default: return 1;
  }
}

#ifdef HYBRIDSEEK_EMULATED_CUDA
// Whether the emulated runtime has made it.
bool is_of_device(const void* data) {
  struct {
    int type, device;
    void *on_device, *on_host;
  } attributes{};
  constexpr int kDevice = 2;
  cuda::check(cudaPointerGetAttributes(&attributes, data), "cudaPointerGetAttributes");
  return attributes.type == kDevice;
}
#endif

}  // namespace

CudaKernel::CudaKernel(const NodeInfo& node) : Kernel(node, device_memory(node.ort())) {}

OnDevice::OnDevice(const void* data, size_t bytes) : data_(bytes > 0 ? data : nullptr) {
#ifdef HYBRIDSEEK_EMULATED_CUDA
  if (data_ && is_of_device(data_)) data_ = nullptr;
  if (data_) cuda::check(cudaHostRegister(const_cast<void*>(data), bytes, 0), "cudaHostRegister");
#else
  static_cast<void>(data_);
#endif
}

OnDevice::OnDevice(const Tensor& tensor)
    : OnDevice(tensor.data, tensor.type.count() * element_bytes(tensor.type.type)) {}

OnDevice::~OnDevice() {
#ifdef HYBRIDSEEK_EMULATED_CUDA
  if (data_) cudaHostUnregister(const_cast<void*>(data_));
#endif
}

std::vector<int32_t> step_key(const cpu::Batch& batch, std::initializer_list<int32_t> sizes) {
  std::vector<int32_t> key(sizes);
  for (size_t size : {batch.tokens, batch.sequences, batch.table_width}) key.push_back(static_cast<int32_t>(size));
  key.push_back(cuda::device());
  auto add = [&](const int32_t* from, size_t count) { key.insert(key.end(), from, from + count); };
  add(batch.slots, batch.tokens);
  add(batch.query_starts, batch.sequences + 1);
  add(batch.context_lengths, batch.sequences);
  add(batch.block_tables, batch.sequences * batch.table_width);
  return key;
}

}  // namespace hybridseek
