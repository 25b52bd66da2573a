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

// Consecutive taps, whose columns are worked on together.
struct TapRun {
  int64_t first, count;
};

// Rows are output positions, counted from `first_position` of the flattened (image, y, x) order.
// columns and grad_columns: [rows, taps of the run, C_in]; samples: [rows, offset_groups, K].
// zeros: C_in zeros, what a corner outside the image holds.
template <typename Element>
struct SamplingKernels {
  using Real = Accumulate<Element>;

  void (*locate)(const DeformConv2dParams&, int64_t first_position, int64_t rows, Sample<Real>* samples);

  void (*gather)(const DeformConv2dParams&, const Sample<Real>* samples, TapRun taps, int64_t rows,
                 const Element* zeros, Element* columns);

  // Writes columns, and grad_offset and grad_mask at the rows' positions.
  void (*gather_backward)(const DeformConv2dParams&, const Sample<Real>* samples, TapRun taps,
                          int64_t first_position, int64_t rows, const Element* zeros,
                          const Real* grad_columns, Element* columns);

  // Adds into grad_input, channels [first_channel, last_channel) only.
  void (*scatter)(const DeformConv2dParams&, const Sample<Real>* samples, TapRun taps, int64_t rows,
                  int64_t first_channel, int64_t last_channel, const Real* grad_columns);

  void (*narrow)(const Real* values, int64_t count, Element* result);

  // to[c * to_stride + row] = from[row * from_stride + c]
  void (*transpose)(const Element* from, int64_t rows, int64_t columns, int64_t from_stride, Element* to,
                    int64_t to_stride);
};

// Elements that one step of a product's depth multiplies: bfloat16 products take pairs of neighbours in
// depth.
template <typename Element>
constexpr int64_t kTogether = std::is_same_v<Element, BFloat16> ? 2 : 1;

// Elements of depth that every kernel can take whole: where the depth is ours to choose, it is filled up to
// them.
template <typename Element>
constexpr int64_t kDepthMultiple = std::is_same_v<Element, BFloat16> ? 32 : 1;

// A left-hand matrix in memory. Its depth is `segments` runs of `depth` steps; strides are in elements, and
// the elements of a step lie side by side.
template <typename Element>
struct Matrix {
  const Element* data;
  int64_t row_stride;
  int64_t depth, depth_stride;
  int64_t segments = 1, segment_stride = 0;
};

// Matrix products with sums in the accumulate type. The right-hand matrix is packed first, into panels one or
// two vectors wide: [panels, depth in steps, panel width, elements of a step].
template <typename Element>
struct GemmKernels {
  using Real = Accumulate<Element>;

  int64_t lanes;  // of a vector of sums

  int64_t (*panel_width)(int64_t columns);

  // Packs into one panel b, element (k, column) at b[k * depth_stride + column * column_stride]. Elements are
  // counted, not steps; what is missing of the last step is zero. Columns to the right are left alone.
  void (*pack)(const Element* b, int64_t depth, int64_t columns, int64_t depth_stride, int64_t column_stride,
               int64_t panel, Element* packed);

  // c = a b, or c += a b to accumulate; a is [rows, depth], b [depth, columns] one panel or less of it,
  // c [rows, columns].
  void (*multiply)(const Matrix<Element>& a, int64_t rows, int64_t columns, int64_t panel,
                   const Element* packed, bool accumulate, Real* c, int64_t c_stride);
};

template <typename Element>
const SamplingKernels<Element>& sampling_kernels();

template <typename Element>
const GemmKernels<Element>& gemm_kernels();

// Those of one instruction set, each in a namespace of its own.
#define DCN_DECLARE_KERNELS(instruction_set)          \
  namespace instruction_set {                         \
  template <typename Element>                         \
  const SamplingKernels<Element>& sampling_kernels(); \
  template <typename Element>                         \
  const GemmKernels<Element>& gemm_kernels();         \
  }

#define DCN_INSTANTIATE_KERNELS(Element)                                \
  template const SamplingKernels<Element>& sampling_kernels<Element>(); \
  template const GemmKernels<Element>& gemm_kernels<Element>();

}  // namespace dcn::cpu
