// The loops that are compiled once per instruction set (kernels_*.cpp) and chosen at run time.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>
#include <type_traits>

#include "../bilinear.h"
#include "../deform_conv2d.h"

namespace dcn::cpu {

using torch::headeronly::BFloat16;

// std::min and std::max could be compiled for one instruction set and linked into code meant for another.
DCN_HOST_DEVICE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
DCN_HOST_DEVICE int64_t maximum(int64_t a, int64_t b) { return a < b ? b : a; }

template <typename Element>
using Accumulate = std::conditional_t<std::is_same_v<Element, double>, double, float>;

// Where one tap of one offset group of one output position samples.
template <typename Real>
struct Sample {
  int64_t corner[4];  // pixel index in the batch, n * H * W + y * W + x; -1 outside the image
  Real dy, dx, mask;
  bool inside;  // when false, nothing else here is meaningful
};

// Rows are output positions, counted from `first_position` of the flattened (image, y, x) order.
// columns and grad_columns: [rows, groups, K, C_in / groups]; samples: [rows, offset_groups, K].
// zeros: C_in zeros, what a corner outside the image holds.
template <typename Element>
struct SamplingKernels {
  using Real = Accumulate<Element>;

  void (*locate)(const DeformConv2dParams&, int64_t first_position, int64_t rows, Sample<Real>* samples);

  void (*gather)(const DeformConv2dParams&, const Sample<Real>* samples, int64_t rows, const Element* zeros,
                 Element* columns);

  // Writes grad_offset and grad_mask at the rows' positions; columns too unless null.
  void (*gather_backward)(const DeformConv2dParams&, const Sample<Real>* samples, int64_t first_position,
                          int64_t rows, const Element* zeros, const Element* grad_columns, Element* columns);

  // Adds into grad_input, channels [first_channel, last_channel) only.
  void (*scatter)(const DeformConv2dParams&, const Sample<Real>* samples, int64_t rows, int64_t first_channel,
                  int64_t last_channel, const Element* grad_columns);

  void (*add)(const Element* values, int64_t count, Real* sum);
};

// A left-hand matrix in memory, element (row, k) at data[row * row_stride + k * depth_stride].
template <typename Real>
struct Matrix {
  const Real* data;
  int64_t row_stride, depth_stride;
};

// Matrix products for float and double. The right-hand matrix is packed into panels of a few vectors' width
// first: `packed_size` elements, zero-padded on the right.
template <typename Real>
struct GemmKernels {
  int64_t panel;  // columns in a panel

  int64_t (*packed_size)(int64_t depth, int64_t columns);

  // Packs b, element (k, column) at b[k * depth_stride + column * column_stride].
  void (*pack)(const Real* b, int64_t depth, int64_t columns, int64_t depth_stride, int64_t column_stride,
               Real* packed);

  // c = a b, or c += a b to accumulate; a is [rows, depth], b [depth, columns], c [rows, columns].
  void (*multiply)(Matrix<Real> a, int64_t rows, int64_t depth, int64_t columns, const Real* packed,
                   bool accumulate, Real* c, int64_t c_stride);
};

template <typename Element>
const SamplingKernels<Element>& sampling_kernels();

template <typename Real>
const GemmKernels<Real>& gemm_kernels();

}  // namespace dcn::cpu
