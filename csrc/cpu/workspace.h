// How much of the output one thread works on at a time, and its buffers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "kernels.h"

namespace dcn::cpu {

// Column buffers of one thread stay within this; it is about what a core's second-level cache holds.
constexpr int64_t kWorkspaceBytes = 2 << 20;
constexpr int64_t kMinimumRows = 32;  // below this, reading the weight costs more than multiplying by it

// Output positions in a block, each of which takes `row_bytes` of columns.
inline int64_t block_rows(int64_t row_bytes, int64_t positions) {
  const int64_t rows = std::max(kMinimumRows, kWorkspaceBytes / std::max<int64_t>(row_bytes, 1));
  return std::max<int64_t>(1, std::min(rows / kMinimumRows * kMinimumRows, positions));
}

// The same, when the threads share the blocks: as many for each of them.
inline int64_t even_block_rows(int64_t row_bytes, int64_t positions, int64_t threads) {
  const int64_t rounds = threads * block_rows(row_bytes, positions);
  const int64_t blocks = (positions + rounds - 1) / rounds * threads;
  return std::max<int64_t>(1, (positions + blocks - 1) / blocks);
}

// Calls body with a value of the element type.
template <typename Body>
void with_element(ElementType type, const Body& body) {
  switch (type) {
    case ElementType::float64:
      return body(double());
    case ElementType::float32:
      return body(float());
    case ElementType::bfloat16:
      return body(BFloat16());
  }
}

template <typename Value>
using Buffer = std::unique_ptr<Value[]>;

template <typename Value>
Buffer<Value> uninitialized(int64_t count) {
  return Buffer<Value>(new Value[count]);
}

template <typename Element>
Buffer<Element> zero_row(const DeformConv2dParams& p) {
  auto row = uninitialized<Element>(p.in_channels);
  std::fill_n(row.get(), p.in_channels, Element(0));
  return row;
}

}  // namespace dcn::cpu
