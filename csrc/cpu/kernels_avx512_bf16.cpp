// Kernels for x86-64 processors that multiply bfloat16: pairs, with float32 sums.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels.h"

#define DCN_VECTOR_BYTES 64
#define DCN_TILE_ROWS 14

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,prefer-vector-width=512")
#endif

namespace dcn::cpu::avx512_bf16 {
typedef float Sums __attribute__((vector_size(DCN_VECTOR_BYTES)));
typedef uint32_t Bits __attribute__((vector_size(DCN_VECTOR_BYTES)));

// A pair of a, broadcast, times pairs of b.
inline void multiply_add(Sums& sum, const BFloat16* a, Sums b) {
  int32_t pair;
  __builtin_memcpy(&pair, a, sizeof(pair));
  sum = (Sums)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
}

// 32 channels as float32, those with even and those with odd numbers apart.
struct Channels {
  Sums even, odd;
};

inline Channels load_channels(const BFloat16* p, __mmask32 channels) {
  const Bits pairs = (Bits)_mm512_maskz_loadu_epi16(channels, p);
  return {(Sums)(pairs << 16), (Sums)(pairs & 0xFFFF0000u)};
}

inline Channels load_channels(const float* p, __mmask32 channels) {
  const __m512 first = _mm512_maskz_loadu_ps(static_cast<__mmask16>(channels), p);
  const __m512 second = _mm512_maskz_loadu_ps(static_cast<__mmask16>(channels >> 16), p + 16);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return {(Sums)_mm512_permutex2var_ps(first, even, second),
          (Sums)_mm512_permutex2var_ps(first, odd, second)};
}

inline void store_channels(const Channels& values, __mmask32 channels, BFloat16* p) {
  const __m512i interleaved =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                       23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i narrowed = (__m512i)_mm512_cvtne2ps_pbh((__m512)values.odd, (__m512)values.even);
  _mm512_mask_storeu_epi16(p, channels, _mm512_permutexvar_epi16(interleaved, narrowed));
}

// Calls body(first channel, mask of 32) for all channels.
template <typename Body>
inline void for_each_vector(int64_t count, const Body& body) {
  int64_t c = 0;
  for (; c + 32 <= count; c += 32) body(c, ~__mmask32(0));
  if (c < count) body(c, (__mmask32(1) << (count - c)) - 1);
}

// This and the next go before the templates of these names in sampling.inc.
inline void gather_run(const BFloat16* const corner[4], const float weight[4], int64_t count,
                       BFloat16* column) {
  for_each_vector(count, [&](int64_t c, __mmask32 channels) {
    Channels sum = {};
    for (int i = 0; i < 4; ++i) {
      const Channels values = load_channels(corner[i] + c, channels);
      sum.even += weight[i] * values.even;
      sum.odd += weight[i] * values.odd;
    }
    store_channels(sum, channels, column + c);
  });
}

inline void gather_backward_run(const BFloat16* const corner[4], const float weight[4],
                                const float* grad_column, int64_t count, BFloat16* column, float product[4]) {
  Channels products[4] = {};
  for_each_vector(count, [&](int64_t c, __mmask32 channels) {
    const Channels grad = load_channels(grad_column + c, channels);
    Channels sum = {};
    for (int i = 0; i < 4; ++i) {
      const Channels values = load_channels(corner[i] + c, channels);
      sum.even += weight[i] * values.even;
      sum.odd += weight[i] * values.odd;
      products[i].even += grad.even * values.even;
      products[i].odd += grad.odd * values.odd;
    }
    store_channels(sum, channels, column + c);
  });
  for (int i = 0; i < 4; ++i) {
    const Sums lanes = products[i].even + products[i].odd;
    for (int lane = 0; lane < 16; ++lane) product[i] += lanes[lane];
  }
}

#include "gemm.inc"
#include "sampling.inc"
DCN_INSTANTIATE_KERNELS(BFloat16)
}  // namespace dcn::cpu::avx512_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
