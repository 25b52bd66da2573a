// RoI pooling's gradient of the input: what a bin adds to each pixel that it looks at, once for all of its
// points.
#pragma once

#include "roi_taps.cuh"
#include "sums.cuh"

namespace dcn::cuda {

template <typename Element, typename Sum, int kCount>
DCN_DEVICE void add_to_pixels(const RoiPooling& p, const RoiSlot<Accumulate<Element>>& slot,
                              const Accumulate<Element> gradient[kCount], Accumulate<Element> scale,
                              typename Sum::Value* first) {
  const auto &rows = slot.axis[0], &columns = slot.axis[1];
  for (int i = 0; i < rows.count; ++i) {
    const int64_t line = static_cast<int64_t>(rows.tap[i].pixel) * p.width;
    for (int j = 0; j < columns.count; ++j) {
      const Accumulate<Element> weight = rows.tap[i].weight * columns.tap[j].weight;
      typename Sum::Value contribution[kCount];
#pragma unroll
      for (int c = 0; c < kCount; ++c) contribution[c] = to_sum<Sum>(weight * gradient[c], scale);
      add_to_global<kCount>(first + (line + columns.tap[j].pixel) * p.channels, contribution);
    }
  }
}

template <typename Element, typename Sum, int kCount>
DCN_DEVICE void roi_scatter(const RoiScatterParams& params) {
  using Real = Accumulate<Element>;
  const RoiPooling& p = params.pooling;
  const RoiRegion<Real>& region = shared_region<Real>(p);
  RoiSlot<Real>& slot = shared_slot<Real>(p.lanes);
  const Real scale = Sum::kFixed ? *static_cast<const Real*>(params.scale) : Real(1);
  for_each_cell(p, [&](const RoiCell& cell) {
    const int in_group = (cell.slice * p.lanes + thread_index() % p.lanes) * kCount;
    const int channel = cell.group * group_channels(p) + in_group;
    const bool active = cell.there && in_group < group_channels(p);
    Real gradient[kCount] = {};
    if (active) {
      const auto loaded = load_vector<Element, kCount>(static_cast<const Element*>(params.grad_output) +
                                                       output_index(p, cell, channel));
      const Real factor = modulation<Real>(p, cell) / region.divisor;
#pragma unroll
      for (int c = 0; c < kCount; ++c) gradient[c] = widen(loaded, c) * factor;
    }
    auto* first =
        static_cast<typename Sum::Value*>(params.grad_input) + first_pixel(p, region, cell, channel);
    for_each_part(p, region, cell, slot, [&] {
      if (active) add_to_pixels<Element, Sum, kCount>(p, slot, gradient, scale, first);
    });
  });
}

}  // namespace dcn::cuda
