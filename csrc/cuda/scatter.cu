#include "deform_conv2d_cuda.h"
#include "launch.cuh"
#include "plan.h"

void dcn::cuda::launch_scatter(const ScatterParams& params, ElementType type, const Device& device) {
  plan_scatter(params, type, device, [&](auto kernel, const ScatterParams& p, const Launch& grid) {
    launch<decltype(kernel)>(p, grid, device);
  });
}
