// Kernels for x86-64 processors with AVX2 and FMA.
#if defined(__x86_64__)
#include <cstring>
#include <utility>

#include "kernels.h"
#include "roi_kernels.h"

#define DCN_VECTOR_BYTES 32
#define DCN_TILE_ROWS 6

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace dcn::cpu::avx2 {
#include "gemm.inc"
#include "roi_sampling.inc"
#include "sampling.inc"
DCN_INSTANTIATE_KERNELS(double)
DCN_INSTANTIATE_KERNELS(float)
DCN_INSTANTIATE_ROI_KERNELS
}  // namespace dcn::cpu::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__
