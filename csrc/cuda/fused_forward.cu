#include "deform_conv2d_cuda.h"
#include "launch.cuh"
#include "plan.h"

bool dcn::cuda::launch_fused_forward(const FusedParams& params, ElementType type, const Device& device) {
  return plan_fused_forward(params, type, device, [&](auto kernel, const FusedParams& p, const Launch& grid) {
    launch<decltype(kernel)>(p, grid, device);
  });
}
