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

// A pair of a, broadcast, times pairs of b.
inline void multiply_add(Sums& sum, const BFloat16* a, Sums b) {
  int32_t pair;
  __builtin_memcpy(&pair, a, sizeof(pair));
  sum = (Sums)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)b);
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
