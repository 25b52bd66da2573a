// Kernels for x86-64 processors that multiply bfloat16: pairs, with float32 sums.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

#define DCN_VECTOR_BYTES 64
#define DCN_TILE_ROWS 8

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

// The weighted sum of four corners for 32 channels, the even and the odd ones apart.
inline void gather_vector(const BFloat16* const corner[4], const float weight[4], int64_t c,
                          __mmask32 channels, BFloat16* column) {
  const __m512i interleaved =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                       23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  Sums even = {}, odd = {};
  for (int i = 0; i < 4; ++i) {
    const Bits pairs = (Bits)_mm512_maskz_loadu_epi16(channels, corner[i] + c);
    even += weight[i] * (Sums)(pairs << 16);
    odd += weight[i] * (Sums)(pairs & 0xFFFF0000u);
  }
  const __m512i narrowed = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
  _mm512_mask_storeu_epi16(column + c, channels, _mm512_permutexvar_epi16(interleaved, narrowed));
}

// Goes before the template of this name in sampling.inc.
inline void gather_run(const BFloat16* const corner[4], const float weight[4], int64_t count,
                       BFloat16* column) {
  int64_t c = 0;
  for (; c + 32 <= count; c += 32) gather_vector(corner, weight, c, ~__mmask32(0), column);
  if (c < count) gather_vector(corner, weight, c, (__mmask32(1) << (count - c)) - 1, column);
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
