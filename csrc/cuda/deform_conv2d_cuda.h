// Launches of the CUDA kernels, for the host side.
#pragma once

#include "launch.h"
#include "params.h"

namespace dcn::cuda {

void launch_gather(const GatherParams& params, ElementType type, const Device& device);
void launch_scatter(const ScatterParams& params, ElementType type, const Device& device);

// False, and nothing done, where the fused kernel does not take such sizes or such a device.
bool launch_fused_forward(const FusedParams& params, ElementType type, const Device& device);

}  // namespace dcn::cuda
