// Kernels for the compiler's default instruction set, and the choice at run time.
#include <cstring>

#include "kernels.h"

#define DCN_VECTOR_BYTES 16
#define DCN_TILE_ROWS 6

#define DCN_DECLARE_KERNELS(instruction_set)          \
  namespace instruction_set {                         \
  template <typename Element>                         \
  const SamplingKernels<Element>& sampling_kernels(); \
  template <typename Real>                            \
  const GemmKernels<Real>& gemm_kernels();            \
  }

namespace dcn::cpu {

namespace generic {
#include "gemm.inc"
#include "sampling.inc"
}  // namespace generic

#if defined(__x86_64__)
DCN_DECLARE_KERNELS(avx2)
DCN_DECLARE_KERNELS(avx512)

static bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

template <typename Element>
const SamplingKernels<Element>& sampling_kernels() {
#if defined(__x86_64__)
  if (has_avx512()) return avx512::sampling_kernels<Element>();
  if (has_avx2()) return avx2::sampling_kernels<Element>();
#endif
  return generic::sampling_kernels<Element>();
}

template <typename Real>
const GemmKernels<Real>& gemm_kernels() {
#if defined(__x86_64__)
  if (has_avx512()) return avx512::gemm_kernels<Real>();
  if (has_avx2()) return avx2::gemm_kernels<Real>();
#endif
  return generic::gemm_kernels<Real>();
}

template const SamplingKernels<double>& sampling_kernels<double>();
template const SamplingKernels<float>& sampling_kernels<float>();
template const SamplingKernels<BFloat16>& sampling_kernels<BFloat16>();
template const GemmKernels<double>& gemm_kernels<double>();
template const GemmKernels<float>& gemm_kernels<float>();

}  // namespace dcn::cpu
