// Starts a kernel on a GPU.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "launch.h"

namespace dcn::cuda {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    entry(const __grid_constant__ typename Kernel::Params params) {
  Kernel::run(params);
}

inline void check_cuda(cudaError_t status) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("a CUDA kernel did not start: ") + cudaGetErrorString(status));
  }
}

constexpr int kSharedBytesUnasked = 48 << 10;

// On the device that is current and on the device's stream; waits for nothing.
template <typename Kernel>
void launch(const typename Kernel::Params& params, const Launch& launch, const Device& device) {
  if (launch.blocks > 0x7FFFFFFF)
    throw std::runtime_error("a CUDA grid would be too large, expected smaller tensors");
  const int shared_bytes = static_cast<int>(launch.shared_bytes);
  if (shared_bytes > kSharedBytesUnasked) {
    check_cuda(
        cudaFuncSetAttribute(entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  }
  entry<Kernel><<<static_cast<unsigned int>(launch.blocks), launch.threads, shared_bytes,
                  static_cast<cudaStream_t>(device.stream)>>>(params);
  check_cuda(cudaGetLastError());
}

}  // namespace dcn::cuda
