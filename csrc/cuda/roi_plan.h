// Which instantiation of an RoI pooling kernel runs, on what grid; see plan.h.
#pragma once

#include <algorithm>

#include "plan.h"
#include "roi_gather.cuh"
#include "roi_scatter.cuh"

namespace dcn::cuda {

template <typename Element, int kCount, bool kBackward>
struct RoiGather {
  using Params = RoiGatherParams;
  static constexpr int kThreads = kRoiThreads;
  static constexpr int kBlocks = 6;
  static DCN_DEVICE void run(const Params& p) {
    if constexpr (kBackward) {
      roi_pool_positions<Element, kCount>(p);
    } else {
      roi_pool<Element, kCount>(p);
    }
  }
};

template <typename Element, typename Sum, int kCount>
struct RoiScatter {
  using Params = RoiScatterParams;
  static constexpr int kThreads = kRoiThreads;
  static constexpr int kBlocks = 8;
  static DCN_DEVICE void run(const Params& p) { roi_scatter<Element, Sum, kCount>(p); }
};

// Sets how cells are cut and spread: a region's bins stay in one block, and its cache, where there are
// regions enough for all multiprocessors. A cell that is not `sliced` takes all channels of its offset group.
inline Launch roi_launch(RoiPooling& p, int count, bool sliced, const Device& device) {
  const int channels = p.out_channels / p.offset_groups;
  const int64_t vectors = ceil_divide(channels, count);
  p.lanes = std::max(2, power_of_two_up_to(std::min<int64_t>(kWarpLanes, vectors)));
  p.slices = sliced ? static_cast<int>(ceil_divide(vectors, p.lanes)) : 1;
  const int64_t together = kRoiThreads / p.lanes;
  const int64_t cells = static_cast<int64_t>(p.bins()) * p.offset_groups * p.slices;
  const int64_t wanted = ceil_divide(static_cast<int64_t>(kBlocksWanted) * device.multiprocessors, p.regions);
  const int64_t blocks = std::clamp<int64_t>(wanted, 1, ceil_divide(cells, together));
  p.cells_per_block = static_cast<int>(ceil_divide(ceil_divide(cells, blocks), together) * together);
  p.blocks_per_region = static_cast<int>(ceil_divide(cells, p.cells_per_block));
  return {p.blocks_per_region * static_cast<int64_t>(p.regions), kRoiThreads, 0};
}

template <typename Element, typename Kernel, typename Params, typename Run>
void run_roi(Params p, int count, bool sliced, const Device& device, const Run& run) {
  Launch launch = roi_launch(p.pooling, count, sliced, device);
  launch.shared_bytes = roi_shared_bytes<Accumulate<Element>>(p.pooling.lanes);
  run(Kernel(), p, launch);
}

template <typename Element, int kCount, typename Run>
void plan_roi_gather_width(const RoiGatherParams& p, const Device& device, const Run& run) {
  if (p.grad_output) {
    run_roi<Element, RoiGather<Element, kCount, true>>(p, kCount, false, device, run);
  } else {
    run_roi<Element, RoiGather<Element, kCount, false>>(p, kCount, true, device, run);
  }
}

// Gradients of positions where there is one of the output, the output otherwise.
template <typename Run>
void plan_roi_gather(const RoiGatherParams& p, ElementType type, const Device& device, const Run& run) {
  with_element(type, [&](auto element) {
    using Element = decltype(element);
    if (p.pooling.out_channels / p.pooling.offset_groups % kWidest<Element> == 0) {
      plan_roi_gather_width<Element, kWidest<Element>>(p, device, run);
    } else {
      plan_roi_gather_width<Element, 1>(p, device, run);
    }
  });
}

// In fixed point where there is a scale. Four neighbours of a lane are one addition in float32 only: other
// sums are coalesced by neighbouring lanes.
template <typename Run>
void plan_roi_scatter(const RoiScatterParams& p, ElementType type, const Device& device, const Run& run) {
  with_element(type, [&](auto element) {
    using Element = decltype(element);
    using Real = Accumulate<Element>;
    if (p.scale) {
      run_roi<Element, RoiScatter<Element, FixedSum<Real>, 1>>(p, 1, true, device, run);
      return;
    }
    if constexpr (std::is_same_v<Real, float>) {
      if (p.pooling.out_channels / p.pooling.offset_groups % 4 == 0) {
        run_roi<Element, RoiScatter<Element, FloatingSum<Real>, 4>>(p, 4, true, device, run);
        return;
      }
    }
    run_roi<Element, RoiScatter<Element, FloatingSum<Real>, 1>>(p, 1, true, device, run);
  });
}

}  // namespace dcn::cuda
