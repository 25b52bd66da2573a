// Where the taps sample: the boundary rule of bilinear.h, in the form the kernels read it from shared memory.
#pragma once

#include "../bilinear.h"
#include "elements.cuh"
#include "params.h"

namespace dcn::cuda {

constexpr int kOutside = -1;

template <typename Real>
struct alignas(16) Corners {
  int pixel[4];    // n * H * W + y * W + x with images counted from the launch's first; kOutside the image
  Real weight[4];  // bilinear weight times mask
};

template <typename Real>
struct Sample : Corners<Real> {
  Real dy, dx, mask;  // zero outside, like the weights
};

// One output position of a launch.
struct Position {
  int image, y, x;
};

DCN_DEVICE Position position_of(const Sampling& p, int row) {
  const int index = p.first + row, positions = p.out_height * p.out_width;
  const int image = index / positions, within = index - image * positions;
  const int y = within / p.out_width;
  return {image, y, within - y * p.out_width};
}

// Offset group and tap are one index, as in offset and mask: group * K + tap.
template <typename Real>
DCN_DEVICE Sample<Real> locate(const Sampling& p, int row, const Position& position, int group_tap) {
  const int64_t index = static_cast<int64_t>(row) * p.offset_groups * p.taps() + group_tap;
  const int tap = group_tap % p.taps(), tap_y = tap / p.kernel_width, tap_x = tap - tap_y * p.kernel_width;
  const auto offset = load_vector<Real, 2>(static_cast<const Real*>(p.offset) + 2 * index);
  const Real y =
      Real(position.y * p.stride_height - p.padding_height + tap_y * p.dilation_height) + offset.value[0];
  const Real x =
      Real(position.x * p.stride_width - p.padding_width + tap_x * p.dilation_width) + offset.value[1];

  Sample<Real> sample{};
  for (int corner = 0; corner < 4; ++corner) sample.pixel[corner] = kOutside;
  if (!is_inside(y, x, p.height, p.width)) return sample;
  const BilinearCell<Real> cell = bilinear_cell(y, x);
  sample.dy = cell.dy;
  sample.dx = cell.dx;
  sample.mask = p.mask ? load_constant<Real>(static_cast<const Real*>(p.mask) + index) : Real(1);
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const int pixel = static_cast<int>(corner_pixel(cell, corner, p.height, p.width));
    if (pixel >= 0) sample.pixel[corner] = position.image * p.height * p.width + pixel;
    sample.weight[corner] = sample.mask * corner_weight(cell.dy, cell.dx, corner);
  }
  return sample;
}

// Element of a channel of a tap in columns.
DCN_DEVICE int64_t column_index(const Sampling& p, int groups, int row, int tap, int channel) {
  const int64_t rows_of_taps = static_cast<int64_t>(row) * p.taps() + tap;
  if (groups == 1) return rows_of_taps * p.channels + channel;
  const int group_channels = p.channels / groups, group = channel / group_channels;
  return (static_cast<int64_t>(group) * p.rows * p.taps() + rows_of_taps) * group_channels + channel -
         group * group_channels;
}

// The corners' pixels of neighbouring channels from `channel` on; zeros outside the image, which keeps
// infinite pixels that no sample looks at out of every sum.
template <typename Element, int kCount>
DCN_DEVICE void load_corners(const Sampling& p, const int pixel[4], int channel,
                             Vector<Element, kCount> corner[4]) {
  const Element* input = static_cast<const Element*>(p.input);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    corner[i] =
        pixel[i] == kOutside
            ? zeros<Element, kCount>()
            : load_vector<Element, kCount>(input + static_cast<int64_t>(pixel[i]) * p.channels + channel);
  }
}

template <typename Element, int kCount>
DCN_DEVICE Vector<Element, kCount> weighted_sum(const Vector<Element, kCount> corner[4],
                                                const Accumulate<Element> weight[4]) {
  Accumulate<Element> sum[kCount];
#pragma unroll
  for (int c = 0; c < kCount; ++c) {
    sum[c] = weight[0] * widen(corner[0], c);
#pragma unroll
    for (int i = 1; i < 4; ++i) sum[c] += weight[i] * widen(corner[i], c);
  }
  Vector<Element, kCount> result;
  if constexpr (sizeof(Element) == 2 && kCount % 2 == 0) {
#pragma unroll
    for (int c = 0; c < kCount; c += 2) narrow_pair(sum[c], sum[c + 1], result, c);
  } else {
#pragma unroll
    for (int c = 0; c < kCount; ++c) result.value[c] = narrow<Element>(sum[c]);
  }
  return result;
}

}  // namespace dcn::cuda
