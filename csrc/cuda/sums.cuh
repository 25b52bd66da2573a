// How contributions to the gradient of the input are summed: in floating point, or in fixed point.
#pragma once

#include "elements.cuh"

namespace dcn::cuda {

// How contributions are summed. In fixed point the order has no say; blocks.py and fixed_point.py of the
// backends choose the scale so that nothing overflows, and read a sum below kLowestSum as NaN.
template <typename Real>
struct FloatingSum {
  using Value = Real;
  static constexpr bool kFixed = false;
};

template <typename Real>
struct FixedSum {
  using Value = int64_t;
  static constexpr bool kFixed = true;
};

constexpr int64_t kLowestSum = -(int64_t{1} << 61);
constexpr int64_t kNotFinite = 4 * kLowestSum - kLowestSum;  // -2^63 + 2^61: stays below when sums are added

template <typename Sum, typename Real>
DCN_DEVICE typename Sum::Value to_sum(Real contribution, Real scale) {
  if constexpr (Sum::kFixed) {
    return is_finite(contribution) ? round_to_integer(contribution * scale) : kNotFinite;
  } else {
    return contribution;
  }
}

DCN_DEVICE void add_to(float& sum, float value) { sum += value; }
DCN_DEVICE void add_to(double& sum, double value) { sum += value; }
DCN_DEVICE void add_to(int64_t& sum, int64_t value) {
  if (sum >= kLowestSum) sum = value < kLowestSum ? kNotFinite : sum + value;
}

template <int kCount, typename Value>
DCN_DEVICE void add_to_global(Value* address, const Value value[kCount]) {
  if constexpr (kCount == 4 && std::is_same_v<Value, float>) {
    atomic_add4(address, value);
  } else if constexpr (std::is_same_v<Value, int64_t>) {
    for (int i = 0; i < kCount; ++i) {
      if (value[i] < kLowestSum) {
        atomic_store(address + i, kNotFinite);
      } else {
        atomic_add(address + i, value[i]);
      }
    }
  } else {
    for (int i = 0; i < kCount; ++i) atomic_add(address + i, value[i]);
  }
}

}  // namespace dcn::cuda
