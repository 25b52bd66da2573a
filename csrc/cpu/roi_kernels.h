// The inner loops of RoI pooling, which are compiled once per instruction set (kernels_*.cpp).
#pragma once

#include <algorithm>

#include "roi_regions.h"

namespace dcn::cpu {

// A row or a column of pixels that a bin looks at, and the sum over the bin's points of what they give to it.
template <typename Real>
struct RoITap {
  int64_t offset;  // of the pixel along this axis, in elements
  Real weight, slope;
};

// Where the taps of one bin, or of a row of bins, are kept.
template <typename Real>
struct RoITaps {
  RoITap<Real>* y;    // of one row of bins
  RoITap<Real>* x;    // [kw, x_capacity]
  int64_t* x_counts;  // [kw]
  int64_t x_capacity;
};

// Some bins, all or a row of them, and some output channels.
struct RoIBlock {
  int64_t first_bin, bins, first_channel, channels;
};

// Pixels of one image as a block sees them: its bin, pixel and channel, each counted from its first.
template <typename Value>
struct RoIPixels {
  Value* data;
  int64_t bin_stride, pixel_stride, channel_stride;
};

// [bins, channels] of a block.
template <typename Value>
struct RoIBins {
  Value* data;
  int64_t bin_stride;
};

template <typename Real>
struct RoIKernels {
  // Writes the output of one region, `number`.
  void (*pool)(const DeformRoIPoolParams&, const Region<Real>&, int64_t number, const RoIBlock&,
               const RoITaps<Real>&, const RoIPixels<const Real>&, const RoIBins<Real>& output);

  // Adds its gradient to the pixels.
  void (*scatter)(const DeformRoIPoolParams&, const Region<Real>&, int64_t number, const RoIBlock&,
                  const RoITaps<Real>&, const RoIBins<const Real>& grad_output,
                  const RoIPixels<Real>& grad_input);

  // Adds to sums [offset_groups, K, 3] those over channels of grad_output times the unmodulated output, and
  // times that output's derivatives by the bin's x and y.
  void (*products)(const DeformRoIPoolParams&, const Region<Real>&, int64_t number, const RoIBlock&,
                   const RoITaps<Real>&, const RoIBins<const Real>& grad_output, const RoIPixels<const Real>&,
                   Real* sums);
};

template <typename Real>
const RoIKernels<Real>& roi_kernels();

// Those of one instruction set, each in a namespace of its own.
#define DCN_DECLARE_ROI_KERNELS(instruction_set) \
  namespace instruction_set {                    \
  template <typename Real>                       \
  const RoIKernels<Real>& roi_kernels();         \
  }

#define DCN_INSTANTIATE_ROI_KERNELS                         \
  template const RoIKernels<double>& roi_kernels<double>(); \
  template const RoIKernels<float>& roi_kernels<float>();

}  // namespace dcn::cpu
