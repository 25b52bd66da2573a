// The boundary and interpolation rule of deformable sampling, for every kernel on every device.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define DCN_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Always inlined: a copy compiled for one instruction set must never serve code meant for another.
#define DCN_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace dcn {

// The cell of four pixels around a fractional position. Corners are numbered
// 0 = (top, left), 1 = (top, right), 2 = (bottom, left), 3 = (bottom, right).
template <typename Real>
struct BilinearCell {
  int64_t top;   // -1 <= top < height
  int64_t left;  // -1 <= left < width
  Real dy;       // distance from `top`, in [0, 1]
  Real dx;       // distance from `left`, in [0, 1]
};

// A sample counts when -1 < y < height and -1 < x < width. Every comparison is false for NaN,
// so NaN and infinite positions are outside, and only positions that fit an integer are converted.
template <typename Real>
DCN_HOST_DEVICE bool is_inside(Real y, Real x, int64_t height, int64_t width) {
  return y > Real(-1) && y < Real(height) && x > Real(-1) && x < Real(width);
}

template <typename Real>
DCN_HOST_DEVICE BilinearCell<Real> bilinear_cell(Real y, Real x) {
  const Real top = std::floor(y);
  const Real left = std::floor(x);
  return {static_cast<int64_t>(top), static_cast<int64_t>(left), y - top, x - left};
}

// Index of a corner's pixel in an image of height x width, or -1 when the corner is outside.
template <typename Real>
DCN_HOST_DEVICE int64_t corner_pixel(const BilinearCell<Real>& cell, int corner, int64_t height,
                                     int64_t width) {
  const int64_t y = cell.top + (corner >> 1);
  const int64_t x = cell.left + (corner & 1);
  const bool inside = y >= 0 && y < height && x >= 0 && x < width;
  return inside ? y * width + x : -1;
}

template <typename Real>
DCN_HOST_DEVICE Real corner_weight(Real dy, Real dx, int corner) {
  const Real vertical = (corner >> 1) ? dy : Real(1) - dy;
  const Real horizontal = (corner & 1) ? dx : Real(1) - dx;
  return vertical * horizontal;
}

// The interpolated value of four corner values, and its derivatives by position.
template <typename Real>
DCN_HOST_DEVICE Real interpolate(const Real corner[4], Real dy, Real dx) {
  return (Real(1) - dy) * ((Real(1) - dx) * corner[0] + dx * corner[1]) +
         dy * ((Real(1) - dx) * corner[2] + dx * corner[3]);
}

template <typename Real>
DCN_HOST_DEVICE Real interpolate_dy(const Real corner[4], Real dx) {
  return (Real(1) - dx) * (corner[2] - corner[0]) + dx * (corner[3] - corner[1]);
}

template <typename Real>
DCN_HOST_DEVICE Real interpolate_dx(const Real corner[4], Real dy) {
  return (Real(1) - dy) * (corner[1] - corner[0]) + dy * (corner[3] - corner[2]);
}

}  // namespace dcn
