// RoI pooling, and the gradients of offset and mask. Lanes side by side take neighbouring channels of a bin,
// several each, and read the same pixels.
#pragma once

#include "roi_taps.cuh"

namespace dcn::cuda {

// Calls body(row, column, pixel) for every pixel that the taps look at, `pixel` being neighbouring channels
// of it; `first` is where those are in the first pixel of the image.
template <typename Element, int kCount, typename Body>
DCN_DEVICE void for_each_pixel(const RoiPooling& p, const RoiSlot<Accumulate<Element>>& slot,
                               const Element* first, const Body& body) {
  constexpr int kAhead = 4;  // loads in flight
  const auto &rows = slot.axis[0], &columns = slot.axis[1];
  for (int i = 0; i < rows.count; ++i) {
    const auto row = rows.tap[i];
    const Element* line = first + static_cast<int64_t>(row.pixel) * p.width * p.channels;
    for (int k = 0; k < columns.count; k += kAhead) {
      Vector<Element, kCount> pixel[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (k + j >= columns.count) continue;
        const int64_t column = columns.tap[k + j].pixel;
        pixel[j] = load_vector<Element, kCount>(line + column * p.channels);
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        if (k + j < columns.count) body(row, columns.tap[k + j], pixel[j]);
      }
    }
  }
}

template <typename Element, int kCount>
DCN_DEVICE Vector<Element, kCount> narrow_all(const Accumulate<Element> value[kCount]) {
  Vector<Element, kCount> result;
#pragma unroll
  for (int c = 0; c < kCount; ++c) result.value[c] = narrow<Element>(value[c]);
  return result;
}

template <typename Element, int kCount>
DCN_DEVICE void roi_pool(const RoiGatherParams& params) {
  using Real = Accumulate<Element>;
  const RoiPooling& p = params.pooling;
  const RoiRegion<Real>& region = shared_region<Real>(p);
  RoiSlot<Real>& slot = shared_slot<Real>(p.lanes);
  for_each_cell(p, [&](const RoiCell& cell) {
    const int in_group = (cell.slice * p.lanes + thread_index() % p.lanes) * kCount;
    const int channel = cell.group * group_channels(p) + in_group;
    const bool active = cell.there && in_group < group_channels(p);
    const Element* pixels = static_cast<const Element*>(p.input) + first_pixel(p, region, cell, channel);
    Real sum[kCount] = {};
    for_each_part(p, region, cell, slot, [&] {
      if (!active) return;
      for_each_pixel<Element, kCount>(p, slot, pixels,
                                      [&](const auto& row, const auto& column, const auto& pixel) {
                                        const Real weight = row.weight * column.weight;
#pragma unroll
                                        for (int c = 0; c < kCount; ++c) sum[c] += weight * widen(pixel, c);
                                      });
    });
    if (!active) return;
    const Real factor = modulation<Real>(p, cell) / region.divisor;
#pragma unroll
    for (int c = 0; c < kCount; ++c) sum[c] *= factor;
    store_vector(static_cast<Element*>(params.output) + output_index(p, cell, channel),
                 narrow_all<Element, kCount>(sum));
  });
}

// Of one cell: inner products of grad_output with the bin's sum and with that sum's slopes.
template <typename Real>
struct RoiProducts {
  Real value, slope_y, slope_x;
};

// Sums over the lanes of a cell; all lanes of the warp call it.
template <typename Real>
DCN_DEVICE void sum_over_lanes(RoiProducts<Real>& products, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    products.value += shuffle_xor(products.value, distance);
    products.slope_y += shuffle_xor(products.slope_y, distance);
    products.slope_x += shuffle_xor(products.slope_x, distance);
  }
}

template <typename Real>
DCN_DEVICE void store_products(const RoiGatherParams& params, const RoiRegion<Real>& region,
                               const RoiCell& cell, const RoiProducts<Real>& products) {
  const RoiPooling& p = params.pooling;
  const int64_t index = mask_index(p, cell);
  if (params.grad_mask) static_cast<Real*>(params.grad_mask)[index] = products.value / region.divisor;
  if (!params.grad_offset) return;
  const Real factor = modulation<Real>(p, cell) / region.divisor;
  Real* x = static_cast<Real*>(params.grad_offset) + 2 * index - cell.bin;  // [group, 2, bin], x first
  x[0] = products.slope_x * region.axis[1].reach * factor;
  x[p.bins()] = products.slope_y * region.axis[0].reach * factor;
}

template <typename Element, int kCount>
DCN_DEVICE void roi_pool_positions(const RoiGatherParams& params) {
  using Real = Accumulate<Element>;
  const RoiPooling& p = params.pooling;
  const RoiRegion<Real>& region = shared_region<Real>(p);
  RoiSlot<Real>& slot = shared_slot<Real>(p.lanes);
  for_each_cell(p, [&](const RoiCell& cell) {
    const int lane = thread_index() % p.lanes, first = cell.group * group_channels(p);
    const int last = cell.there ? first + group_channels(p) : first;
    RoiProducts<Real> products{};
    for_each_part(p, region, cell, slot, [&] {
      for (int channel = first + lane * kCount; channel < last; channel += p.lanes * kCount) {
        const auto gradient = load_vector<Element, kCount>(static_cast<const Element*>(params.grad_output) +
                                                           output_index(p, cell, channel));
        const Element* pixels = static_cast<const Element*>(p.input) + first_pixel(p, region, cell, channel);
        for_each_pixel<Element, kCount>(p, slot, pixels,
                                        [&](const auto& row, const auto& column, const auto& pixel) {
                                          Real product = 0;
#pragma unroll
                                          for (int c = 0; c < kCount; ++c)
                                            product += widen(gradient, c) * widen(pixel, c);
                                          products.value += row.weight * column.weight * product;
                                          products.slope_y += row.slope * column.weight * product;
                                          products.slope_x += row.weight * column.slope * product;
                                        });
      }
    });
    sum_over_lanes(products, p.lanes);
    if (cell.there && lane == 0) store_products(params, region, cell, products);
  });
}

}  // namespace dcn::cuda
