// What the parameter structs of the operators have in common.
#pragma once

#include <cstdint>

namespace dcn {

enum class ElementType { float64, float32, bfloat16 };

// Of input and output: [N, H, W, C] or [N, C, H, W] in memory.
enum class Layout { channels_last, contiguous };

// Element strides of a tensor that is read in whatever layout it comes, [N, C, H, W].
struct Strides4 {
  int64_t batch, channel, row, column;
};

}  // namespace dcn
