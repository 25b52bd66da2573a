// How much of the output one thread works on at a time, and its buffers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#include "kernels.h"

namespace dcn::cpu {

// What one thread gathers and multiplies at a time; both passes over it find it in a core's second-level
// cache.
constexpr int64_t kBlockBytes = 1 << 19;
constexpr int64_t kMinimumRows = 32;  // below this, reading the weight costs more than multiplying by it
constexpr int64_t kRunDepth = 384;  // products of this depth run at full speed; deeper ones need more columns

// The taps of a kernel, cut into runs of equal length, the last of which may be shorter.
struct TapRuns {
  int64_t taps, length;

  int64_t count() const { return (taps + length - 1) / length; }
  TapRun operator[](int64_t run) const { return {run * length, std::min(length, taps - run * length)}; }
};

inline TapRuns tap_runs(const DeformConv2dParams& p) {
  const int64_t longest = std::clamp<int64_t>(kRunDepth / p.in_channels, 1, p.taps());
  const int64_t runs = (p.taps() + longest - 1) / longest;
  return {p.taps(), (p.taps() + runs - 1) / runs};
}

// Output positions in a block, each of which takes `row_bytes`.
inline int64_t block_rows(int64_t row_bytes, int64_t positions) {
  const int64_t rows = std::max(kMinimumRows, kBlockBytes / std::max<int64_t>(row_bytes, 1));
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

// A vector that straddles two cache lines costs two loads.
constexpr std::align_val_t kAlignment{64};

struct Free {
  void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
};

template <typename Value>
using Buffer = std::unique_ptr<Value[], Free>;

template <typename Value>
Buffer<Value> uninitialized(int64_t count) {
  return Buffer<Value>(static_cast<Value*>(::operator new(count * sizeof(Value), kAlignment)));
}

template <typename Value>
Buffer<Value> zeros(int64_t count) {
  Buffer<Value> buffer = uninitialized<Value>(count);
  std::fill_n(buffer.get(), count, Value(0));
  return buffer;
}

}  // namespace dcn::cpu
