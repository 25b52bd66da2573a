// Types, layouts and allocation of tensors, for the host sides of the CPU's operators.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <vector>

#include "checks.h"
#include "layouts.h"

namespace dcn {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline ScalarType accumulate_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor convert(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

// Dense [N, H, W, C] memory under the logical shape [N, C, H, W]; no copy when it is so already.
inline Tensor channels_last(const Tensor& tensor, ScalarType type) {
  return torch::stable::contiguous(convert(tensor, type), MemoryFormat::ChannelsLast);
}

inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType type, MemoryFormat format) {
  return torch::stable::empty(sizes, type, std::nullopt, std::nullopt, std::nullopt, format);
}

inline Tensor empty_like(const Tensor& like, ScalarType type, MemoryFormat format) {
  const auto sizes = like.sizes();
  return empty({sizes.begin(), sizes.end()}, type, format);
}

// The format in which a gradient of this tensor is wanted.
inline MemoryFormat memory_format(const Tensor& t) {
  return t.stride(1) < t.stride(3) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// Dense memory in its own layout, or else channels-last; no copy when it is dense already.
inline Tensor dense(const Tensor& tensor, ScalarType type) {
  const Tensor converted = convert(tensor, type);
  const bool contiguous = converted.is_contiguous() && memory_format(converted) == MemoryFormat::Contiguous;
  return contiguous ? converted : channels_last(converted, type);
}

inline Strides4 strides(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

inline void check_type(const Tensor& input) {
  const ScalarType type = input.scalar_type();
  check(type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half ||
            type == ScalarType::BFloat16,
        "input has an unsupported type, expected float64, float32, float16 or bfloat16");
}

}  // namespace dcn
