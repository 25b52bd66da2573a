// Parameters and launches of deformable convolution. csrc/README.md explains the layouts.
#pragma once

#include <cstdint>

#include "layouts.h"

namespace dcn {

// "Accumulate" is float64 beside float64 elements and float32 beside all others.
// Pointers to what a call neither has nor needs are null.
struct DeformConv2dParams {
  ElementType element_type;
  Layout layout;  // backward: channels-last only
  int64_t batch, in_channels, height, width;
  int64_t out_channels, out_height, out_width;
  int64_t kernel_height, kernel_width;
  int64_t stride_height, stride_width;
  int64_t padding_height, padding_width;
  int64_t dilation_height, dilation_width;
  int64_t groups, offset_groups;

  const void* input;   // in the layout
  const void* weight;  // [C_out, C_in / groups, kh, kw], strided
  const void* bias;    // [C_out], forward only
  const void* offset;  // [N, 2 * offset_groups * K, H_out, W_out], accumulate type, strided
  const void* mask;    // [N, offset_groups * K, H_out, W_out], accumulate type, strided
  Strides4 weight_strides, offset_strides, mask_strides;

  void* output;             // in the layout, forward only
  const void* grad_output;  // [N, H_out, W_out, C_out], backward only, as all below
  void* grad_input;         // [N, H, W, C_in], accumulate type, zeroed by the caller
  void* grad_weight;        // [C_out, C_in / groups, kh, kw], accumulate type, strided
  void* grad_offset;        // [N, H_out, W_out, 2 * offset_groups * K], accumulate type
  void* grad_mask;          // [N, H_out, W_out, offset_groups * K], accumulate type
  Strides4 grad_weight_strides;

  int64_t taps() const { return kernel_height * kernel_width; }
  int64_t positions() const { return out_height * out_width; }  // of one image
  int64_t group_channels() const { return in_channels / groups; }
  int64_t group_out_channels() const { return out_channels / groups; }

  // Of a tap's element in a tensor of the weight's shape.
  int64_t tap_offset(int64_t tap, const Strides4& strides) const {
    return tap / kernel_width * strides.row + tap % kernel_width * strides.column;
  }
};

void deform_conv2d_forward_cpu(const DeformConv2dParams& params);
void deform_conv2d_backward_cpu(const DeformConv2dParams& params);

// Whether bfloat16 matrix products are native here; if not, the host side widens to float32.
bool has_native_bfloat16_cpu();

}  // namespace dcn
