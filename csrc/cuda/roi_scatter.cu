#include "launch.cuh"
#include "roi_plan.h"
#include "roi_pool_cuda.h"

void dcn::cuda::launch_roi_scatter(const RoiScatterParams& params, ElementType type, const Device& device) {
  plan_roi_scatter(params, type, device, [&](auto kernel, const RoiScatterParams& p, const Launch& grid) {
    launch<decltype(kernel)>(p, grid, device);
  });
}
