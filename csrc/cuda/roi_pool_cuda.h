// Launches of the RoI pooling kernels, for the host side.
#pragma once

#include "launch.h"
#include "params.h"

namespace dcn::cuda {

void launch_roi_gather(const RoiGatherParams& params, ElementType type, const Device& device);
void launch_roi_scatter(const RoiScatterParams& params, ElementType type, const Device& device);

}  // namespace dcn::cuda
