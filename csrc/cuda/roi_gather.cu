#include "launch.cuh"
#include "roi_plan.h"
#include "roi_pool_cuda.h"

void dcn::cuda::launch_roi_gather(const RoiGatherParams& params, ElementType type, const Device& device) {
  plan_roi_gather(params, type, device, [&](auto kernel, const RoiGatherParams& p, const Launch& grid) {
    launch<decltype(kernel)>(p, grid, device);
  });
}
