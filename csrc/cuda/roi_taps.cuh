// Where the bins of a region look. A row's position depends on y alone and a column's on x alone, and so does
// whether a point counts: the sum over the points of a bin is one over rows and columns of pixels, each with
// a weight. Points whose pixels are the same share them, so that a pixel is mostly read once.
#pragma once

#include "../bilinear.h"
#include "elements.cuh"
#include "params.h"

namespace dcn::cuda {

constexpr int kRoiThreads = 128;
constexpr int kMostRoiPoints = 1 << 15;  // of a bin along an axis, where the size of the region decides

// Points of a bin along an axis that are located at a time.
template <typename Real>
constexpr int kRoiPoints = 32 / sizeof(Real);

// One axis of a region; (start, bin, reach) in pixels of the input.
template <typename Real>
struct alignas(16) RoiAxis {
  Real start, bin;
  Real reach;   // of an offset of one: gamma times the region's size
  Real points;  // of a bin
  int visited;  // how many of them are looked at; 0 where the region is outside or has none
};

template <typename Real>
struct RoiRegion {
  RoiAxis<Real> axis[2];  // y, x
  int64_t image;
  Real divisor;  // points of a bin, 1 where nothing is looked at
};

// A row or column of pixels: its weight in the bin, and the slope of that by the bin's position.
template <typename Real>
struct alignas(16) RoiTap {
  int pixel;
  Real weight, slope;
};

template <typename Real>
struct RoiTaps {
  int count;
  RoiTap<Real> tap[2 * kRoiPoints<Real>];
};

// What the lanes of a cell share, behind the block's region.
template <typename Real>
struct RoiSlot {
  RoiTaps<Real> axis[2];  // y, x
};

template <typename Real>
constexpr int roi_shared_bytes(int lanes) {
  return sizeof(RoiRegion<Real>) + kRoiThreads / lanes * sizeof(RoiSlot<Real>);
}

// Group, bin and slice of a cell, and whether the lanes have one at all: all stay to the end, since warps
// wait for all of their lanes.
struct RoiCell {
  int group, bin, slice;
  bool there;
};

struct Quotient {
  int value, rest;
};

DCN_DEVICE Quotient divide(int number, int by) {
  if (by == 1) return {number, 0};
  const int value = number / by;
  return {value, number - value * by};
}

DCN_DEVICE RoiCell roi_cell(const RoiPooling& p, int index, int last) {
  const bool there = index < last;
  const Quotient slices = divide(there ? index : last - 1, p.slices);
  const Quotient groups = divide(slices.value, p.offset_groups);
  return {groups.rest, groups.value, slices.rest, there};
}

// Every comparison is false for NaN, and only numbers that fit an integer are converted. Where the size of
// the region decides, more points than one are over half a pixel apart, and no more than `most` can count.
template <typename Real>
DCN_DEVICE RoiAxis<Real> roi_axis(const RoiPooling& p, Real low, Real high, int bins, int length) {
  const Real scale = static_cast<Real>(p.spatial_scale), half = Real(0.5);
  RoiAxis<Real> axis;
  axis.start = multiply(low, scale) - half;
  const Real size = (multiply(high, scale) - half) - axis.start;
  axis.bin = size / Real(bins);
  axis.reach = multiply(static_cast<Real>(p.gamma), size);
  const Real wanted = std::ceil(axis.bin), most = 2 * Real(length) + 5;
  if (p.sampling_ratio > 0) {
    axis.points = Real(p.sampling_ratio);
    axis.visited = p.sampling_ratio;
  } else {
    axis.points = wanted > 0 && wanted <= Real(kMostRoiPoints) ? wanted : Real(0);
    axis.visited = static_cast<int>(axis.points < most ? axis.points : most);
  }
  if (!is_finite(axis.start) || !is_finite(size)) axis.visited = 0;
  return axis;
}

template <typename Real>
DCN_DEVICE RoiRegion<Real> roi_region(const RoiPooling& p, int index) {
  const Real* box = static_cast<const Real*>(p.boxes) + static_cast<int64_t>(index) * 5;
  const Real image = load_constant<Real>(box);
  RoiRegion<Real> region;
  RoiAxis<Real>&y = region.axis[0], &x = region.axis[1];
  y = roi_axis(p, load_constant<Real>(box + 2), load_constant<Real>(box + 4), p.bins_height, p.height);
  x = roi_axis(p, load_constant<Real>(box + 1), load_constant<Real>(box + 3), p.bins_width, p.width);
  if (y.visited > 0 && x.visited > 0 && image >= 0 && image < Real(p.images)) {
    region.image = static_cast<int64_t>(image);
    region.divisor = y.points * x.points;
  } else {  // without a point nothing of it is looked at, nor multiplied by zero
    y = x = RoiAxis<Real>{};
    region.image = 0;
    region.divisor = 1;
  }
  return region;
}

// The region of this block, in shared memory; slots lie behind it. All threads of the block call it.
template <typename Real>
DCN_DEVICE const RoiRegion<Real>& shared_region(const RoiPooling& p) {
  RoiRegion<Real>& region = *static_cast<RoiRegion<Real>*>(shared_memory());
  if (thread_index() == 0) region = roi_region<Real>(p, block_index() / p.blocks_per_region);
  synchronize_block();
  return region;
}

template <typename Real>
DCN_DEVICE RoiSlot<Real>& shared_slot(int lanes) {
  RoiRegion<Real>* region = static_cast<RoiRegion<Real>*>(shared_memory());
  return reinterpret_cast<RoiSlot<Real>*>(region + 1)[thread_index() / lanes];
}

// Neighbouring points mostly share a pixel, which is then one of the last two.
template <typename Real>
DCN_DEVICE void add_tap(RoiTaps<Real>& taps, int& count, int pixel, Real weight, Real slope) {
  for (int i = count - 1; i >= 0 && i >= count - 2; --i) {
    if (taps.tap[i].pixel == pixel) {
      taps.tap[i].weight += weight;
      taps.tap[i].slope += slope;
      return;
    }
  }
  taps.tap[count++] = {pixel, weight, slope};
}

// The points of a bin from `begin` on, as many as are located at a time. `first` is the bin's position.
template <typename Real>
DCN_DEVICE void locate_points(const RoiAxis<Real>& axis, bool adaptive, Real first, int begin, int length,
                              RoiTaps<Real>& taps) {
  const Real half = Real(0.5);
  Real skipped = 0;
  if (adaptive && axis.points > 1) {
    const Real before = std::floor((Real(-1) - first) * axis.points / axis.bin - half) - 1;
    if (before > 0) skipped = before;
  }
  const int all = axis.visited - begin;
  const int last = begin + (all < kRoiPoints<Real> ? all : kRoiPoints<Real>);
  int count = 0;
  for (int i = begin; i < last; ++i) {
    const Real point = Real(i) + skipped;
    const Real position = first + (point + half) * axis.bin / axis.points;
    if (!(point < axis.points && position >= Real(-1) && position <= Real(length))) continue;
    const Real slope = position >= 0 && position < Real(length - 1) ? 1 : 0;
    const Real clamped = position < 0 ? 0 : position < Real(length - 1) ? position : Real(length - 1);
    const Real floor = std::floor(clamped), fraction = clamped - floor;
    const int low = static_cast<int>(floor);
    add_tap(taps, count, low, Real(1) - fraction, -slope);
    add_tap(taps, count, low + 1 < length ? low + 1 : low, fraction, slope);
  }
  taps.count = count;
}

// Two lanes of every cell locate an axis each; all lanes of the warp call it.
template <typename Real>
DCN_DEVICE void locate_taps(const RoiPooling& p, const RoiRegion<Real>& region, const RoiCell& cell,
                            int begin_y, int begin_x, RoiSlot<Real>& slot) {
  synchronize_warp();  // nobody reads the taps before any more
  const int lane = thread_index() % p.lanes;
  if (lane < 2) {
    const RoiAxis<Real>& axis = region.axis[lane];
    Real first = axis.start;
    if (p.offset) {
      const int64_t group =
          static_cast<int64_t>(block_index() / p.blocks_per_region) * p.offset_groups + cell.group;
      const int64_t index = (2 * group + 1 - lane) * p.bins() + cell.bin;  // x comes first
      first += multiply(axis.reach, load_constant<Real>(static_cast<const Real*>(p.offset) + index));
    }
    const Quotient bin = divide(cell.bin, p.bins_width);
    first += multiply(Real(lane == 0 ? bin.value : bin.rest), axis.bin);
    locate_points(axis, p.sampling_ratio <= 0, first, lane == 0 ? begin_y : begin_x,
                  lane == 0 ? p.height : p.width, slot.axis[lane]);
  }
  synchronize_warp();
}

// Calls body once the taps are located, for all pairs of points that are located at a time.
template <typename Real, typename Body>
DCN_DEVICE void for_each_part(const RoiPooling& p, const RoiRegion<Real>& region, const RoiCell& cell,
                              RoiSlot<Real>& slot, const Body& body) {
  for (int y = 0; y < region.axis[0].visited; y += kRoiPoints<Real>) {
    for (int x = 0; x < region.axis[1].visited; x += kRoiPoints<Real>) {
      locate_taps(p, region, cell, y, x, slot);
      body();
    }
  }
}

// Channels of an offset group in the output; those of a cell's slice begin at `slice * lanes * kCount` in it.
DCN_DEVICE int group_channels(const RoiPooling& p) { return p.out_channels / p.offset_groups; }

// Element, in input or its gradient, of channel `channel` of the output at the first pixel of the region's
// image.
template <typename Real>
DCN_DEVICE int64_t first_pixel(const RoiPooling& p, const RoiRegion<Real>& region, const RoiCell& cell,
                               int channel) {
  const int64_t pixels = static_cast<int64_t>(p.height) * p.width;
  return region.image * pixels * p.channels + (p.position_sensitive ? cell.bin * p.out_channels : 0) +
         channel;
}

// Element of output or its gradient.
DCN_DEVICE int64_t output_index(const RoiPooling& p, const RoiCell& cell, int channel) {
  const int64_t region = block_index() / p.blocks_per_region;
  return (region * p.bins() + cell.bin) * p.out_channels + channel;
}

// Element of mask or its gradient.
DCN_DEVICE int64_t mask_index(const RoiPooling& p, const RoiCell& cell) {
  const int64_t region = block_index() / p.blocks_per_region;
  return (region * p.offset_groups + cell.group) * p.bins() + cell.bin;
}

template <typename Real>
DCN_DEVICE Real modulation(const RoiPooling& p, const RoiCell& cell) {
  return p.mask ? load_constant<Real>(static_cast<const Real*>(p.mask) + mask_index(p, cell)) : Real(1);
}

// The cells of this block, each with the lanes that share it.
template <typename Body>
DCN_DEVICE void for_each_cell(const RoiPooling& p, const Body& body) {
  const int all = p.bins() * p.offset_groups * p.slices;
  const int first = block_index() % p.blocks_per_region * p.cells_per_block;
  const int last = first + p.cells_per_block < all ? first + p.cells_per_block : all;
  for (int i = first; i < last; i += block_threads() / p.lanes) {
    body(roi_cell(p, i + thread_index() / p.lanes, last));
  }
}

}  // namespace dcn::cuda
