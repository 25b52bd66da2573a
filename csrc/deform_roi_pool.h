// Parameters and launches of deformable RoI pooling. csrc/README.md has the rules and the layouts.
#pragma once

#include <cstdint>

#include "layouts.h"

namespace dcn {

// "Accumulate" is float64 beside float64 elements and float32 beside all others; half types are widened by
// the host side, so that here both are one. Pointers to what a call neither has nor needs are null.
struct DeformRoIPoolParams {
  ElementType element_type;   // float64 or float32
  Layout layout;              // of input, output and grad_input
  Layout grad_output_layout;  // backward only
  int64_t batch, in_channels, height, width;
  int64_t regions, out_channels, bins_height, bins_width, offset_groups;
  int64_t sampling_ratio;
  double spatial_scale, gamma;
  bool position_sensitive;

  const void* input;   // [N, C_in, H, W] in the layout
  const void* boxes;   // [R, 5]: image, x1, y1, x2, y2
  const void* offset;  // [R, 2 * offset_groups, kh, kw], strided; x first
  const void* mask;    // [R, offset_groups, kh, kw], strided
  Strides4 offset_strides, mask_strides;

  void* output;             // [R, C_out, kh, kw] in the layout, forward only
  const void* grad_output;  // likewise in its layout, backward only, as all below
  void* grad_input;         // [N, C_in, H, W] in the layout
  void* grad_offset;        // [R, 2 * offset_groups, kh, kw]
  void* grad_mask;          // [R, offset_groups, kh, kw]

  int64_t bins() const { return bins_height * bins_width; }
  int64_t pixels() const { return height * width; }  // of one image
};

void deform_roi_pool_forward_cpu(const DeformRoIPoolParams& params);
void deform_roi_pool_backward_cpu(const DeformRoIPoolParams& params);

}  // namespace dcn
