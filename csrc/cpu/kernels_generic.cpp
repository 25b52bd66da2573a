// Kernels for the compiler's default instruction set, and the choice at run time.
#include <cstdlib>
#include <cstring>
#include <utility>

#include "capability.h"
#include "kernels.h"
#include "roi_kernels.h"

#define DCN_VECTOR_BYTES 16
#define DCN_TILE_ROWS 6

namespace dcn::cpu {

namespace generic {
#include "gemm.inc"
#include "roi_sampling.inc"
#include "sampling.inc"
DCN_INSTANTIATE_KERNELS(double)
DCN_INSTANTIATE_KERNELS(float)
DCN_INSTANTIATE_ROI_KERNELS
}  // namespace generic

#if defined(__x86_64__)
DCN_DECLARE_KERNELS(avx2)
DCN_DECLARE_ROI_KERNELS(avx2)
DCN_DECLARE_KERNELS(avx512)
DCN_DECLARE_ROI_KERNELS(avx512)
DCN_DECLARE_KERNELS(avx512_bf16)
namespace amx {
const GemmKernels<BFloat16>& gemm_kernels();
}
#endif

template <typename Element>
const SamplingKernels<Element>& sampling_kernels() {
#if defined(__x86_64__)
  if (capability() >= Capability::avx512) return avx512::sampling_kernels<Element>();
  if (capability() == Capability::avx2) return avx2::sampling_kernels<Element>();
#endif
  return generic::sampling_kernels<Element>();
}

template <typename Element>
const GemmKernels<Element>& gemm_kernels() {
#if defined(__x86_64__)
  if (capability() >= Capability::avx512) return avx512::gemm_kernels<Element>();
  if (capability() == Capability::avx2) return avx2::gemm_kernels<Element>();
#endif
  return generic::gemm_kernels<Element>();
}

template <typename Real>
const RoIKernels<Real>& roi_kernels() {
#if defined(__x86_64__)
  if (capability() >= Capability::avx512) return avx512::roi_kernels<Real>();
  if (capability() == Capability::avx2) return avx2::roi_kernels<Real>();
#endif
  return generic::roi_kernels<Real>();
}

DCN_INSTANTIATE_KERNELS(double)
DCN_INSTANTIATE_KERNELS(float)
DCN_INSTANTIATE_ROI_KERNELS

// Asked for only where has_native_bfloat16_cpu().
template <>
const SamplingKernels<BFloat16>& sampling_kernels<BFloat16>() {
#if defined(__x86_64__)
  return avx512_bf16::sampling_kernels<BFloat16>();
#else
  std::abort();
#endif
}

template <>
const GemmKernels<BFloat16>& gemm_kernels<BFloat16>() {
#if defined(__x86_64__)
  if (capability() == Capability::amx) return amx::gemm_kernels();
  return avx512_bf16::gemm_kernels<BFloat16>();
#else
  std::abort();
#endif
}

}  // namespace dcn::cpu

bool dcn::has_native_bfloat16_cpu() { return cpu::capability() >= cpu::Capability::avx512_bf16; }
