// What is used of the C ABI of ONNX Runtime. Its function table only ever grows at the end, so that a
// function's number stays. All of this is in version 17 of the API (onnxruntime 1.17) and later.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hybridseek {

constexpr uint32_t kOrtApiVersion = 17;

struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtCudaOptions;
struct OrtIoBinding;
struct OrtValue;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtTypeInfo;
struct OrtTensorInfo;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtShapeContext;
struct OrtCustomOp;

enum OrtErrorCode : int {
  kOrtFail = 1,
  kOrtInvalidArgument = 2,
  kOrtNotImplemented = 9,
};

enum ElementType : int {
  kAnyType = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt32 = 6,
  kInt64 = 7,
  kFloat16 = 10,
  kBfloat16 = 16,
  kFloat8 = 17,  // e4m3fn
};

// Number, name, result, parameters. A status is null where all went well.
#define HYBRIDSEEK_ORT_FUNCTIONS(X)                                                                   \
  X(0, CreateStatus, OrtStatus*, int code, const char* message)                                       \
  X(1, GetErrorCode, int, const OrtStatus* status)                                                    \
  X(2, GetErrorMessage, const char*, const OrtStatus* status)                                         \
  X(3, CreateEnv, OrtStatus*, int severity, const char* name, OrtEnv** out)                           \
  X(8, CreateSessionFromArray, OrtStatus*, const OrtEnv*, const void* model, size_t bytes,            \
    const OrtSessionOptions*, OrtSession** out)                                                       \
  X(10, CreateSessionOptions, OrtStatus*, OrtSessionOptions** out)                                    \
  X(22, SetSessionLogSeverityLevel, OrtStatus*, OrtSessionOptions*, int severity)                     \
  X(24, SetIntraOpNumThreads, OrtStatus*, OrtSessionOptions*, int threads)                            \
  X(26, CreateCustomOpDomain, OrtStatus*, const char* name, OrtCustomOpDomain** out)                  \
  X(27, CustomOpDomain_Add, OrtStatus*, OrtCustomOpDomain*, const OrtCustomOp*)                       \
  X(28, AddCustomOpDomain, OrtStatus*, OrtSessionOptions*, OrtCustomOpDomain*)                        \
  X(39, CreateRunOptions, OrtStatus*, OrtRunOptions** out)                                            \
  X(48, CreateTensorAsOrtValue, OrtStatus*, OrtAllocator*, const int64_t* dims, size_t rank, int type, \
    OrtValue** out)                                                                                   \
  X(49, CreateTensorWithDataAsOrtValue, OrtStatus*, const OrtMemoryInfo*, void* data, size_t bytes,   \
    const int64_t* dims, size_t rank, int type, OrtValue** out)                                       \
  X(51, GetTensorMutableData, OrtStatus*, OrtValue*, void** out)                                      \
  X(55, CastTypeInfoToTensorInfo, OrtStatus*, const OrtTypeInfo*, const OrtTensorInfo** out)          \
  X(57, CreateTensorTypeAndShapeInfo, OrtStatus*, OrtTensorInfo** out)                                \
  X(58, SetTensorElementType, OrtStatus*, OrtTensorInfo*, int type)                                   \
  X(59, SetDimensions, OrtStatus*, OrtTensorInfo*, const int64_t* dims, size_t rank)                  \
  X(60, GetTensorElementType, OrtStatus*, const OrtTensorInfo*, int* out)                             \
  X(61, GetDimensionsCount, OrtStatus*, const OrtTensorInfo*, size_t* out)                            \
  X(62, GetDimensions, OrtStatus*, const OrtTensorInfo*, int64_t* dims, size_t rank)                  \
  X(63, GetSymbolicDimensions, OrtStatus*, const OrtTensorInfo*, const char** names, size_t rank)      \
  X(65, GetTensorTypeAndShape, OrtStatus*, const OrtValue*, OrtTensorInfo** out)                      \
  X(68, CreateMemoryInfo, OrtStatus*, const char* name, int allocator, int device, int memory,        \
    OrtMemoryInfo** out)                                                                              \
  X(69, CreateCpuMemoryInfo, OrtStatus*, int allocator, int memory, OrtMemoryInfo** out)              \
  X(75, AllocatorAlloc, OrtStatus*, OrtAllocator*, size_t bytes, void** out)                          \
  X(76, AllocatorFree, OrtStatus*, OrtAllocator*, void* memory)                                       \
  X(78, GetAllocatorWithDefaultOptions, OrtStatus*, OrtAllocator** out)                               \
  X(85, KernelInfoGetAttribute_float, OrtStatus*, const OrtKernelInfo*, const char* name, float* out) \
  X(86, KernelInfoGetAttribute_int64, OrtStatus*, const OrtKernelInfo*, const char* name,             \
    int64_t* out)                                                                                     \
  X(88, KernelContext_GetInputCount, OrtStatus*, const OrtKernelContext*, size_t* out)                \
  X(90, KernelContext_GetInput, OrtStatus*, const OrtKernelContext*, size_t index,                    \
    const OrtValue** out)                                                                             \
  X(91, KernelContext_GetOutput, OrtStatus*, OrtKernelContext*, size_t index, const int64_t* dims,    \
    size_t rank, OrtValue** out)                                                                      \
  X(93, ReleaseStatus, void, OrtStatus*)                                                              \
  X(94, ReleaseMemoryInfo, void, OrtMemoryInfo*)                                                      \
  X(95, ReleaseSession, void, OrtSession*)                                                            \
  X(96, ReleaseValue, void, OrtValue*)                                                                \
  X(97, ReleaseRunOptions, void, OrtRunOptions*)                                                      \
  X(98, ReleaseTypeInfo, void, OrtTypeInfo*)                                                          \
  X(99, ReleaseTensorTypeAndShapeInfo, void, OrtTensorInfo*)                                          \
  X(100, ReleaseSessionOptions, void, OrtSessionOptions*)                                             \
  X(130, AddSessionConfigEntry, OrtStatus*, OrtSessionOptions*, const char* key, const char* value)   \
  X(132, ReleaseAllocator, void, OrtAllocator*)                                                       \
  X(133, RunWithBinding, OrtStatus*, OrtSession*, const OrtRunOptions*, const OrtIoBinding*)          \
  X(134, CreateIoBinding, OrtStatus*, OrtSession*, OrtIoBinding** out)                                \
  X(135, ReleaseIoBinding, void, OrtIoBinding*)                                                       \
  X(136, BindInput, OrtStatus*, OrtIoBinding*, const char* name, const OrtValue*)                     \
  X(137, BindOutput, OrtStatus*, OrtIoBinding*, const char* name, const OrtValue*)                    \
  X(165, AddRunConfigEntry, OrtStatus*, OrtRunOptions*, const char* key, const char* value)           \
  X(193, KernelContext_GetGPUComputeStream, OrtStatus*, const OrtKernelContext*, void** out)          \
  X(204, SessionOptionsAppendExecutionProvider_CUDA_V2, OrtStatus*, OrtSessionOptions*,                \
    const OrtCudaOptions*)                                                                            \
  X(205, CreateCUDAProviderOptions, OrtStatus*, OrtCudaOptions** out)                                 \
  X(206, UpdateCUDAProviderOptions, OrtStatus*, OrtCudaOptions*, const char* const* keys,             \
    const char* const* values, size_t count)                                                          \
  X(208, ReleaseCUDAProviderOptions, void, OrtCudaOptions*)                                           \
  X(210, AddExternalInitializers, OrtStatus*, OrtSessionOptions*, const char* const* names,           \
    const OrtValue* const* values, size_t count)                                                      \
  X(230, KernelInfo_GetInputCount, OrtStatus*, const OrtKernelInfo*, size_t* out)                     \
  X(234, KernelInfo_GetInputTypeInfo, OrtStatus*, const OrtKernelInfo*, size_t index,                 \
    OrtTypeInfo** out)                                                                                \
  X(244, KernelInfo_GetNodeName, OrtStatus*, const OrtKernelInfo*, char* name, size_t* size)          \
  X(249, KernelInfoGetConstantInput_tensor, OrtStatus*, const OrtKernelInfo*, size_t index,           \
    int* is_constant, const OrtValue** out)                                                           \
  X(253, KernelContext_GetAllocator, OrtStatus*, const OrtKernelContext*, const OrtMemoryInfo*,       \
    OrtAllocator** out)                                                                               \
  X(268, ShapeInferContext_GetInputTypeShape, OrtStatus*, const OrtShapeContext*, size_t index,       \
    OrtTensorInfo** out)                                                                              \
  X(270, ShapeInferContext_SetOutputTypeShape, OrtStatus*, const OrtShapeContext*, size_t index,      \
    const OrtTensorInfo*)                                                                             \
  X(271, SetSymbolicDimensions, OrtStatus*, OrtTensorInfo*, const char** names, size_t rank)          \
  X(274, KernelContext_ParallelFor, OrtStatus*, const OrtKernelContext*,                              \
    void (*work)(void*, size_t), size_t count, size_t batches, void* user)

// The functions by name, taken from a runtime's table.
struct OrtFunctions {
#define HYBRIDSEEK_MEMBER(number, name, result, ...) result (*name)(__VA_ARGS__);
  HYBRIDSEEK_ORT_FUNCTIONS(HYBRIDSEEK_MEMBER)
#undef HYBRIDSEEK_MEMBER

  explicit OrtFunctions(const void* table) {
    auto functions = static_cast<void* const*>(table);
#define HYBRIDSEEK_LOOK_UP(number, name, result, ...) \
  name = reinterpret_cast<result (*)(__VA_ARGS__)>(functions[number]);
    HYBRIDSEEK_ORT_FUNCTIONS(HYBRIDSEEK_LOOK_UP)
#undef HYBRIDSEEK_LOOK_UP
  }
};

// What a library of onnxruntime exports as OrtGetApiBase().
struct OrtApiBase {
  const void* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// An op as it is registered. `version` says which members there are.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const void* api, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const void* api, const OrtKernelInfo*,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
};

}  // namespace hybridseek
