// Which instantiation of a kernel runs, on what grid. `run` is called with a kernel (a type with Params,
// kThreads, kBlocks and run), its parameters and its launch; the same choices serve the GPU and the emulated
// grid.
#pragma once

#include <algorithm>
#include <limits>

#include "deform_conv2d_cuda.h"
#include "fused_forward.cuh"
#include "gather.cuh"
#include "scatter.cuh"

namespace dcn::cuda {

constexpr int kBlocksWanted =
    8;  // of a multiprocessor: enough to hide latency, and to even out the last ones
constexpr int kLargestTile = 14;            // output positions a side; ImageNet's maps are multiples of 7
constexpr int kMostSlices = 4;              // warps of a scatter block, which share what they locate
constexpr int64_t kWindowBytes = 40 << 10;  // of a warp: five or more warps of a multiprocessor have one

template <typename Body>
void with_element(ElementType type, const Body& body) {
  switch (type) {
    case ElementType::float64:
      return body(double());
    case ElementType::float32:
      return body(float());
    case ElementType::float16:
      return body(Half());
    case ElementType::bfloat16:
      return body(BFloat16());
  }
}

template <typename Element, int kCount, bool kBackward>
struct Gather {
  using Params = GatherParams;
  static constexpr int kThreads = kGatherThreads;
  static constexpr int kBlocks = 4;
  static DCN_DEVICE void run(const Params& p) { gather<Element, kCount, kBackward>(p); }
};

template <typename Element, int kCount, bool kBackward, typename Run>
void plan_gather_width(GatherParams p, const Device& device, const Run& run) {
  const Sampling& s = p.sampling;
  const int64_t samples = static_cast<int64_t>(s.rows) * s.offset_groups * s.taps();
  p.lanes =
      power_of_two_up_to(std::min<int64_t>(kWarpLanes, ceil_divide(s.channels / s.offset_groups, kCount)));
  const int64_t share = samples / (static_cast<int64_t>(kBlocksWanted) * device.multiprocessors);
  p.samples_per_block =
      std::max(kGatherThreads / p.lanes, power_of_two_up_to(std::clamp<int64_t>(share, 1, kGatherThreads)));
  const int64_t shared_bytes =
      p.samples_per_block * static_cast<int64_t>(sizeof(Sample<Accumulate<Element>>));
  run(Gather<Element, kCount, kBackward>(), p,
      Launch{ceil_divide(samples, p.samples_per_block), kGatherThreads, shared_bytes});
}

template <typename Element, bool kBackward, typename Run>
void plan_gather(const GatherParams& p, const Device& device, const Run& run) {
  if (divides_groups(p.sampling, p.groups, kWidest<Element>)) {
    plan_gather_width<Element, kWidest<Element>, kBackward>(p, device, run);
  } else {
    plan_gather_width<Element, 1, kBackward>(p, device, run);
  }
}

// Gradients of samples where there are gradients of columns, columns alone otherwise.
template <typename Run>
void plan_gather(const GatherParams& p, ElementType type, const Device& device, const Run& run) {
  with_element(type, [&](auto element) {
    if (p.grad_columns) {
      plan_gather<decltype(element), true>(p, device, run);
    } else {
      plan_gather<decltype(element), false>(p, device, run);
    }
  });
}

template <typename Element, typename Sum, int kCount>
struct Scatter {
  using Params = ScatterParams;
  static constexpr int kThreads = kMostSlices * kWarpLanes;
  static constexpr int kBlocks = 2;
  static DCN_DEVICE void run(const Params& p) { scatter<Element, Sum, kCount>(p); }
};

// Pixels that the window of a tile has on one axis, at most.
inline int window_size(int tile, int stride, int kernel, int dilation, int size) {
  const int64_t wanted = static_cast<int64_t>(tile - 1) * stride +
                         static_cast<int64_t>(kernel - 1) * dilation + 2 + 2 * kWindowMargin;
  return static_cast<int>(std::min<int64_t>(wanted, size));
}

inline void set_tile(ScatterParams& p, int tile_height, int tile_width) {
  const Sampling& s = p.sampling;
  p.tile_height = tile_height;
  p.tile_width = tile_width;
  p.window_height = window_size(tile_height, s.stride_height, s.kernel_height, s.dilation_height, s.height);
  p.window_width = window_size(tile_width, s.stride_width, s.kernel_width, s.dilation_width, s.width);
}

// The largest of the tiles that cut the image evenly and whose window fits; none fits where taps are far
// apart.
template <typename Sum, int kCount>
void choose_tile(ScatterParams& p) {
  const Sampling& s = p.sampling;
  const auto even = [](int size, int most) { return ceil_divide(size, ceil_divide(size, most)); };
  for (int most = kLargestTile; most > 0; most /= 2) {
    set_tile(p, even(s.out_height, most), even(s.out_width, most));
    if (window_bytes<Sum, kCount>(p.window_height * p.window_width) <= kWindowBytes) return;
  }
  p.window_height = p.window_width = 0;
}

template <typename Element, typename Sum, int kCount, typename Run>
void plan_scatter_width(ScatterParams p, const Device& device, const Run& run) {
  const Sampling& s = p.sampling;
  choose_tile<Sum, kCount>(p);
  const int64_t slices = ceil_divide(s.channels / s.offset_groups, kLanesOfCorner * kCount);
  const int64_t positions = static_cast<int64_t>(s.out_height) * s.out_width;
  const int64_t images = ceil_divide(s.first + static_cast<int64_t>(s.rows), positions);
  const int64_t tiles =
      images * ceil_divide(s.out_height, p.tile_height) * ceil_divide(s.out_width, p.tile_width);
  const int64_t warp_bytes =
      target_bytes<Accumulate<Element>>() + window_bytes<Sum, kCount>(p.window_height * p.window_width);
  const int64_t fitting = std::min<int64_t>({kMostSlices, slices, device.shared_bytes / warp_bytes});
  const int64_t blocks = tiles * s.offset_groups;
  p.slices_per_block = 1;
  while (2 * p.slices_per_block <= fitting &&
         blocks * ceil_divide(slices, 2 * p.slices_per_block) >= 2 * device.multiprocessors) {
    p.slices_per_block *= 2;
  }
  run(Scatter<Element, Sum, kCount>(), p,
      Launch{blocks * ceil_divide(slices, p.slices_per_block), p.slices_per_block * kWarpLanes,
             p.slices_per_block * warp_bytes});
}

template <typename Element, typename Sum, typename Run>
void plan_scatter(const ScatterParams& p, const Device& device, const Run& run) {
  if (divides_groups(p.sampling, p.groups, 4)) {
    plan_scatter_width<Element, Sum, 4>(p, device, run);
  } else {
    plan_scatter_width<Element, Sum, 1>(p, device, run);
  }
}

// In fixed point where there is a scale.
template <typename Run>
void plan_scatter(const ScatterParams& p, ElementType type, const Device& device, const Run& run) {
  with_element(type, [&](auto element) {
    using Element = decltype(element);
    if (p.scale) {
      plan_scatter<Element, FixedSum<Accumulate<Element>>>(p, device, run);
    } else {
      plan_scatter<Element, FloatingSum<Accumulate<Element>>>(p, device, run);
    }
  });
}

template <typename Element, typename Tile_, int kBlocks_, int kStepCycles_>
struct FusedForward {
  using Params = FusedParams;
  using Tile = Tile_;
  static constexpr int kThreads = kFusedThreads;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kStepCycles = kStepCycles_;  // of one block for one chunk, measured on an H100
  static DCN_DEVICE void run(const Params& p) { fused_forward<Element, Tile>(p); }
};

template <typename Element, int kRows>
using FusedWide = FusedForward<Element, FusedTile<kRows, 256, 2, false>, 1, kRows == 128 ? 5900 : 4700>;
template <typename Element>
using FusedHigh = FusedForward<Element, FusedTile<256, 128, 4, false>, 1, 9500>;
template <typename Element>
using FusedSquare = FusedForward<Element, FusedTile<128, 128, 4, false>, 2, 4800>;
template <typename Element>
using FusedSmall = FusedForward<Element, FusedTile<64, 128, 2, false>, 2, 3000>;
template <typename Element>
using FusedDiagonal = FusedForward<Element, FusedTile<64, 64, 4, true>, 3, 2400>;

// Cycles of the busiest multiprocessor for one chunk of every tile; none where a kernel does not take the
// call.
template <typename Kernel>
int64_t fused_cycles(const FusedParams& p, const Device& device) {
  using Tile = typename Kernel::Tile;
  const Sampling& s = p.sampling;
  const int group_channels = s.channels / p.groups, group_columns = p.out_channels / p.groups;
  const bool vectors = group_channels % 8 == 0 && p.out_channels % 8 == 0;
  const bool one_offset_group = s.offset_groups == 1 || s.channels / s.offset_groups % kChunk == 0;
  const bool narrow = group_channels == 8 || group_channels == 16 || group_channels == 32;
  const bool groups = Tile::kDiagonal ? p.groups > 1 && narrow && group_channels == group_columns
                                      : p.groups == 1 || group_columns % Tile::kColumns == 0;
  // With more channels, columns in global memory and torch's product were faster (csrc/README.md).
  const bool few_channels = s.channels <= (Tile::kDiagonal ? 512 : 128);
  if (!vectors || !one_offset_group || !groups || !few_channels ||
      Tile::shared_bytes(s.taps()) > device.shared_bytes)
    return 0;
  const int64_t blocks = ceil_divide(s.rows, Tile::kRows) * ceil_divide(p.out_channels, Tile::kColumns);
  return ceil_divide(blocks, device.multiprocessors) * Kernel::kStepCycles;
}

template <typename Kernel, typename Run>
void run_fused(const FusedParams& p, const Run& run) {
  using Tile = typename Kernel::Tile;
  const int64_t blocks =
      ceil_divide(p.sampling.rows, Tile::kRows) * ceil_divide(p.out_channels, Tile::kColumns);
  run(Kernel(), p, Launch{blocks, kFusedThreads, Tile::shared_bytes(p.sampling.taps())});
}

// The kernel that is predicted to be the fastest; false where none takes the call.
template <typename... Kernels, typename Run>
bool run_fastest(const FusedParams& p, const Device& device, const Run& run) {
  constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  const auto cycles = [&](int64_t predicted) { return predicted > 0 ? predicted : kNever; };
  const int64_t least = std::min({cycles(fused_cycles<Kernels>(p, device))...});
  return least < kNever &&
         ((fused_cycles<Kernels>(p, device) == least && (run_fused<Kernels>(p, run), true)) || ...);
}

template <typename Element, typename Run>
bool plan_fused_forward(const FusedParams& p, const Device& device, const Run& run) {
  return run_fastest<FusedWide<Element, 128>, FusedWide<Element, 96>, FusedHigh<Element>,
                     FusedSquare<Element>, FusedSmall<Element>, FusedDiagonal<Element>>(p, device, run);
}

template <typename Run>
bool plan_fused_forward(const FusedParams& p, ElementType type, const Device& device, const Run& run) {
  if (!device.tensor_tiles) return false;
  if (type == ElementType::float16) return plan_fused_forward<Half>(p, device, run);
  return type == ElementType::bfloat16 && plan_fused_forward<BFloat16>(p, device, run);
}

}  // namespace dcn::cuda
