// The device that kernels are launched on, as torch and the CUDA runtime see it.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>

#include "launch.h"

namespace dcn::cuda {
namespace {

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  const cudaError_t status = cudaDeviceGetAttribute(&value, which, index);
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("the CUDA device does not answer: ") + cudaGetErrorString(status));
  }
  return value;
}

}  // namespace

void with_device(int index, const std::function<void(const Device&)>& body) {
  const torch::stable::accelerator::DeviceGuard guard(index);
  Device device;
  device.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, index);
  device.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  const int capability = attribute(cudaDevAttrComputeCapabilityMajor, index);
  device.tensor_tiles = capability >= 8;
  device.vector_sums = capability >= 9;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &device.stream));
  body(device);
}

}  // namespace dcn::cuda
