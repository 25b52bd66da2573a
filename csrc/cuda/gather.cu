#include "deform_conv2d_cuda.h"
#include "launch.cuh"
#include "plan.h"

void dcn::cuda::launch_gather(const GatherParams& params, ElementType type, const Device& device) {
  plan_gather(params, type, device, [&](auto kernel, const GatherParams& p, const Launch& grid) {
    launch<decltype(kernel)>(p, grid, device);
  });
}
