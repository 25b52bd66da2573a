// What the host sides of the operators share: types, and the checks of tensors that kernels are given.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <vector>

#include "../checks.h"
#include "params.h"

#if !defined(DCN_DISPATCH_KEY)  // the emulation takes the place of the kernels on the CPU
#define DCN_DISPATCH_KEY CUDA
#endif

namespace dcn::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Pair = std::vector<int64_t>;  // height, width

constexpr int64_t kMostIndices =
    0x70000000;  // pixels, positions or columns of one launch; some room below 2^31

inline ScalarType accumulate_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline ElementType element_type(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
      return ElementType::float64;
    case ScalarType::Float:
      return ElementType::float32;
    case ScalarType::Half:
      return ElementType::float16;
    default:
      check(type == ScalarType::BFloat16,
            "input has an unsupported type, expected float64, float32, float16 or bfloat16");
      return ElementType::bfloat16;
  }
}

inline void check_tensor(const std::string& name, const Tensor& tensor, const Tensor& input, ScalarType type,
                         const std::vector<int64_t>& sizes) {
  check(tensor.is_cuda() == input.is_cuda() && tensor.get_device_index() == input.get_device_index(),
        name + " is on another device than input, expected the same");
  check(tensor.scalar_type() == type, name + " has an unexpected type beside this input");
  check_sizes(name, tensor, sizes);
  check(tensor.is_contiguous(),
        name + " is not dense, expected its last dimension to be so and all before it");
}

// Vector loads need pointers that are aligned, which a view of a tensor may not be.
inline Tensor aligned(const Tensor& tensor) {
  const bool is_aligned = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  return is_aligned ? tensor : torch::stable::clone(tensor);
}

inline int narrow_index(int64_t value, const char* what) {
  check(value <= kMostIndices, std::string("input has ") + std::to_string(value) + " " + what +
                                   ", expected at most " + std::to_string(kMostIndices) + " in one launch");
  return static_cast<int>(value);
}

}  // namespace dcn::cuda
