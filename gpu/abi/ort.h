// ONNX Runtime's C ABI with C++'s manners: errors are exceptions, objects free themselves.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace hybridseek {

// An error on its way to whoever called; `code` is one of OrtErrorCode or another of onnxruntime's.
struct Error : std::runtime_error {
  Error(int code, const std::string& message) : std::runtime_error(message), code(code) {}
  int code;
};

// Throws what a status says; null says that all went well.
inline void check(const OrtFunctions& ort, OrtStatus* status) {
  if (!status) return;
  Error error(ort.GetErrorCode(status), ort.GetErrorMessage(status));
  ort.ReleaseStatus(status);
  throw error;
}

// An object that is released with the function of its type.
template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

using Dims = std::vector<int64_t>;

// "[2, 3]"
inline std::string text_of(const Dims& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); i++) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

// The type and shape of a tensor, or of what a graph says a tensor will be; -1 is an unknown size.
struct TensorType {
  int type;
  Dims dims;

  TensorType(const OrtFunctions& ort, const OrtTensorInfo* info) {
    size_t rank = 0;
    check(ort, ort.GetTensorElementType(info, &type));
    check(ort, ort.GetDimensionsCount(info, &rank));
    dims.resize(rank);
    check(ort, ort.GetDimensions(info, dims.data(), rank));
  }

  static TensorType of_value(const OrtFunctions& ort, const OrtValue* value) {
    OrtTensorInfo* info = nullptr;
    check(ort, ort.GetTensorTypeAndShape(value, &info));
    Owned<OrtTensorInfo> owned(info, ort.ReleaseTensorTypeAndShapeInfo);
    return TensorType(ort, info);
  }

  size_t count() const {
    size_t product = 1;
    for (int64_t size : dims) product *= static_cast<size_t>(size);
    return product;
  }
};

}  // namespace hybridseek
