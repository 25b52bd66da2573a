// Element types of the kernels, and runs of neighbouring elements that move as one access.
#pragma once

#include <type_traits>

#include "execution.cuh"

namespace dcn::cuda {

// Bits only: arithmetic is done in float. CUDA's own half types would pull their headers into the emulation.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename Element>
using Accumulate = std::conditional_t<std::is_same_v<Element, double>, double, float>;

DCN_DEVICE double widen(double value) { return value; }
DCN_DEVICE float widen(float value) { return value; }
DCN_DEVICE float widen(Half value) { return half_to_float(value.bits); }
DCN_DEVICE float widen(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float wide;
  memcpy(&wide, &bits, 4);
  return wide;
}

template <typename Element>
DCN_DEVICE Element narrow(Accumulate<Element> value) {
  if constexpr (std::is_same_v<Element, Half>) {
    return {float_to_half(value)};
  } else if constexpr (std::is_same_v<Element, BFloat16>) {
    return {float_to_bfloat16(value)};
  } else {
    return value;
  }
}

template <typename Element, int kCount>
struct alignas(sizeof(Element) * kCount < 16 ? sizeof(Element) * kCount : 16) Vector {
  Element value[kCount];
};

// As many elements as one access takes.
template <typename Element>
constexpr int kWidest = 16 / sizeof(Element);

// Element i as a float or double. A pair of bfloat16 in one register is widened in place.
template <typename Element, int kCount>
DCN_DEVICE Accumulate<Element> widen(const Vector<Element, kCount>& vector, int i) {
  if constexpr (std::is_same_v<Element, BFloat16> && kCount % 2 == 0) {
    uint32_t pair;
    memcpy(&pair, vector.value + i / 2 * 2, 4);
    const uint32_t bits = i % 2 ? pair & 0xFFFF0000u : pair << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
  } else {
    return widen(vector.value[i]);
  }
}

// Elements i and i + 1.
template <typename Element, int kCount>
DCN_DEVICE void narrow_pair(float first, float second, Vector<Element, kCount>& vector, int i) {
  const uint32_t pair =
      std::is_same_v<Element, Half> ? floats_to_halves(first, second) : floats_to_bfloat16s(first, second);
  memcpy(vector.value + i, &pair, 4);
}

template <typename Element, int kCount>
DCN_DEVICE Vector<Element, kCount> zeros() {
  Vector<Element, kCount> vector;
  memset(&vector, 0, sizeof vector);
  return vector;
}

// Aligned like the vector.
template <typename Element, int kCount>
DCN_DEVICE Vector<Element, kCount> load_vector(const Element* address) {
  constexpr int kStep = kCount < kWidest<Element> ? kCount : kWidest<Element>;
  Vector<Element, kCount> vector;
#pragma unroll
  for (int i = 0; i < kCount; i += kStep) {
    const auto part = load_constant<Vector<Element, kStep>>(address + i);
    memcpy(vector.value + i, &part, sizeof part);
  }
  return vector;
}

// What the same thread may overwrite later: the read-only path of `load_vector` is in no order with stores.
template <typename Element, int kCount>
DCN_DEVICE Vector<Element, kCount> load_before_store(const Element* address) {
  return *reinterpret_cast<const Vector<Element, kCount>*>(address);
}

template <typename Element, int kCount>
DCN_DEVICE void store_vector(Element* address, const Vector<Element, kCount>& vector) {
  *reinterpret_cast<Vector<Element, kCount>*>(address) = vector;
}

}  // namespace dcn::cuda
