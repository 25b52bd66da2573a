// Launches of the CUDA kernels, for the host side.
#pragma once

#include "launch.h"
#include "params.h"

namespace dcn::cuda {

// Whether runs of `count` channels stay within the groups of the offset and of the weight.
inline bool divides_groups(const Sampling& s, int groups, int count) {
  return s.channels / s.offset_groups % count == 0 && s.channels / groups % count == 0;
}

// Whether a gather of vectors of 16 bytes can add to grad_input on its way: float32 sums, four at a time.
inline bool gather_adds_to_pixels(const GatherParams& p, ElementType type, const Device& device) {
  const int vector = type == ElementType::float32 ? 4 : 8;
  return device.vector_sums && type != ElementType::float64 && divides_groups(p.sampling, p.groups, vector);
}

void launch_gather(const GatherParams& params, ElementType type, const Device& device);
void launch_scatter(const ScatterParams& params, ElementType type, const Device& device);

// False, and nothing done, where the fused kernel does not take such sizes or such a device.
bool launch_fused_forward(const FusedParams& params, ElementType type, const Device& device);

}  // namespace dcn::cuda
