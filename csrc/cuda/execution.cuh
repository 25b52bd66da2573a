// What the kernels ask of a GPU. Every kernel body is written against this header only, so that it also
// compiles as plain C++ over an emulated grid (emulation/execution.h), where tests run it without a GPU.
//
// A body is a function of its parameters that all threads of all blocks run. Grids and blocks have one
// dimension, shared memory is one dynamic piece, warps have 32 lanes that reach every warp operation
// together.
#pragma once

#include <cstdint>
#include <cstring>

namespace dcn::cuda {

constexpr int kWarpLanes = 32;

}  // namespace dcn::cuda

#if !defined(__CUDACC__)
#include "emulation/execution.h"
#else

#define DCN_DEVICE __device__ __forceinline__

namespace dcn::cuda {

DCN_DEVICE int thread_index() { return threadIdx.x; }
DCN_DEVICE int block_threads() { return blockDim.x; }
DCN_DEVICE int block_index() { return blockIdx.x; }

// Aligned to 16 bytes.
DCN_DEVICE void* shared_memory() {
  extern __shared__ uint4 dynamic_shared_memory[];
  return dynamic_shared_memory;
}

DCN_DEVICE void synchronize_block() { __syncthreads(); }
DCN_DEVICE void synchronize_warp() { __syncwarp(); }

template <typename Value>
DCN_DEVICE Value shuffle_xor(Value value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

// Reads what no thread of the launch writes, through the read-only path; aligned to its size of 2 to 16
// bytes.
template <typename Value>
DCN_DEVICE Value load_constant(const void* address) {
  Value value;
  if constexpr (sizeof(Value) == 16) {
    const uint4 bits = __ldg(static_cast<const uint4*>(address));
    memcpy(&value, &bits, 16);
  } else if constexpr (sizeof(Value) == 8) {
    const uint2 bits = __ldg(static_cast<const uint2*>(address));
    memcpy(&value, &bits, 8);
  } else if constexpr (sizeof(Value) == 4) {
    const unsigned int bits = __ldg(static_cast<const unsigned int*>(address));
    memcpy(&value, &bits, 4);
  } else {
    static_assert(sizeof(Value) == 2);
    const unsigned short bits = __ldg(static_cast<const unsigned short*>(address));
    memcpy(&value, &bits, 2);
  }
  return value;
}

// Adds to global memory, atomically for each number; none of the sums before is returned.
DCN_DEVICE void atomic_add(double* address, double value) { atomicAdd(address, value); }
DCN_DEVICE void atomic_add(float* address, float value) { atomicAdd(address, value); }
DCN_DEVICE void atomic_add(int64_t* address, int64_t value) {
  atomicAdd(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
}
DCN_DEVICE void atomic_store(int64_t* address, int64_t value) {
  atomicExch(reinterpret_cast<unsigned long long*>(address), static_cast<unsigned long long>(value));
}

// The same for four neighbours, aligned to 16 bytes: one reduction of 16 bytes on compute capability 9.0 and
// later.
DCN_DEVICE void atomic_add4(float* address, const float value[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(address), "f"(value[0]),
               "f"(value[1]), "f"(value[2]), "f"(value[3])
               : "memory");
#else
  for (int i = 0; i < 4; ++i) atomicAdd(address + i, value[i]);
#endif
}

DCN_DEVICE float half_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

DCN_DEVICE uint16_t float_to_half(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

DCN_DEVICE uint16_t float_to_bfloat16(float value) {
#if __CUDA_ARCH__ >= 800
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  const uint32_t bits = __float_as_uint(value);
  return value == value ? (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16 : 0x7FFFu;  // to nearest even
#endif
}

// Two in one register, the first in its lower half.
DCN_DEVICE uint32_t floats_to_halves(float first, float second) {
#if __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return float_to_half(first) | static_cast<uint32_t>(float_to_half(second)) << 16;
#endif
}

DCN_DEVICE uint32_t floats_to_bfloat16s(float first, float second) {
#if __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return float_to_bfloat16(first) | static_cast<uint32_t>(float_to_bfloat16(second)) << 16;
#endif
}

// A product that is rounded before anything is added to it: the compiler fuses both otherwise.
DCN_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
DCN_DEVICE double multiply(double a, double b) { return __dmul_rn(a, b); }

DCN_DEVICE int64_t round_to_integer(float value) { return __float2ll_rn(value); }
DCN_DEVICE int64_t round_to_integer(double value) { return __double2ll_rn(value); }
DCN_DEVICE bool is_finite(float value) { return fabsf(value) <= 3.4028234664e38f; }
DCN_DEVICE bool is_finite(double value) { return fabs(value) <= 1.7976931348623157e308; }

// The operations below need compute capability 8.0; a kernel that uses them is empty before.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define DCN_HAS_TENSOR_TILES 0
#else
#define DCN_HAS_TENSOR_TILES 1
#endif

DCN_DEVICE uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts a copy of 16 bytes from global to shared memory; without `inside` it writes zeros and reads nothing.
DCN_DEVICE void copy_async(void* shared, const void* global, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(inside ? 16 : 0)
               : "memory");
}

// Until the copies that this thread started are there, for this thread.
DCN_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Four matrices of 8 x 8 half-type elements. Lanes 8i to 8i + 7 give the addresses of the rows of matrix i,
// 16 bytes each; lane l is given elements 2 * (l % 4) and the next of row l / 4 of each.
DCN_DEVICE void load_matrices(uint32_t matrix[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrix[0]), "=r"(matrix[1]), "=r"(matrix[2]), "=r"(matrix[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

#define DCN_MULTIPLY(shape, type, a, b)                                                          \
  asm("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 {%0, %1, %2, %3}, " a ", " b \
      ", {%0, %1, %2, %3};"                                                                      \
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                               \
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]))

// sums (16 x 8) += left (16 x 16) x right (16 x 8), spread over the warp as the instruction demands.
template <bool kBFloat16>
DCN_DEVICE void multiply_16(float sums[4], const uint32_t left[4], const uint32_t right[2]) {
  if constexpr (kBFloat16) {
    DCN_MULTIPLY("m16n8k16", "bf16", "{%4, %5, %6, %7}", "{%8, %9}");
  } else {
    DCN_MULTIPLY("m16n8k16", "f16", "{%4, %5, %6, %7}", "{%8, %9}");
  }
}

// The same with the first (half = 0) or last 8 columns of left and rows of right only.
template <bool kBFloat16, int half>
DCN_DEVICE void multiply_8(float sums[4], const uint32_t left[4], const uint32_t right[2]) {
  if constexpr (kBFloat16 && half == 0) {
    DCN_MULTIPLY("m16n8k8", "bf16", "{%4, %5}", "{%8}");
  } else if constexpr (kBFloat16) {
    DCN_MULTIPLY("m16n8k8", "bf16", "{%6, %7}", "{%9}");
  } else if constexpr (half == 0) {
    DCN_MULTIPLY("m16n8k8", "f16", "{%4, %5}", "{%8}");
  } else {
    DCN_MULTIPLY("m16n8k8", "f16", "{%6, %7}", "{%9}");
  }
}

#undef DCN_MULTIPLY

}  // namespace dcn::cuda

#endif  // __CUDACC__
