// Kernels for x86-64 processors with AVX-512.
#if defined(__x86_64__)
#include <cstring>
#include <utility>

#include "kernels.h"
#include "roi_kernels.h"

#define DCN_VECTOR_BYTES 64
#define DCN_TILE_ROWS 14

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#endif

namespace dcn::cpu::avx512 {
#include "gemm.inc"
#include "roi_sampling.inc"
#include "sampling.inc"
DCN_INSTANTIATE_KERNELS(double)
DCN_INSTANTIATE_KERNELS(float)
DCN_INSTANTIATE_ROI_KERNELS
}  // namespace dcn::cpu::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
