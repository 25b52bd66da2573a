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

// Output positions in a block.
template <typename Element>
int64_t block_rows(const DeformConv2dParams& p, int64_t column_buffers, int64_t positions) {
  const int64_t row_bytes = column_buffers * p.column_length() * static_cast<int64_t>(sizeof(Element));
  const int64_t rows = std::max(kMinimumRows, kWorkspaceBytes / std::max<int64_t>(row_bytes, 1));
  return std::max<int64_t>(1, std::min(rows, positions));
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
