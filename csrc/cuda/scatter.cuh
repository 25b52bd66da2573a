// The gradient of the input: every sample adds its column's gradient to four pixels. Neighbouring positions
// sample the same pixels, so a warp sums a tile of positions in shared memory first, for a slice of channels
// that it owns; global memory sees one addition for each pixel of the tile's window instead of one for each
// corner of each sample.
#pragma once

#include "samples.cuh"
#include "sums.cuh"

namespace dcn::cuda {

constexpr int kLanesOfCorner = kWarpLanes / 4;  // a warp works on the four corners of a sample at once
constexpr int kWindowMargin = 2;    // pixels that offsets may lead outwards before global memory is used
constexpr int kSamplesOfWarp = 32;  // that a warp locates at a time

// The pixels of one image that a tile sums in shared memory: rows [top, top + height), columns alike.
struct Window {
  int top, left, height, width;
};

// Along one axis: what taps without offsets reach, and the margin, within the image and what there is memory
// for.
DCN_DEVICE void window_axis(int first, int count, int stride, int padding, int reach, int size, int most,
                            int& start, int& length) {
  const int begin = first * stride - padding - kWindowMargin;
  const int end = (first + count - 1) * stride - padding + reach + 2 + kWindowMargin;
  start = begin < 0 ? 0 : begin < size ? begin : size;
  const int stop = end < size ? end : size;
  const int wanted = stop > start ? stop - start : 0;
  length = wanted < most ? wanted : most;
}

// Output positions of a block's tile: it may reach beyond the image, and beyond the rows of the launch.
struct Tile {
  int image, top, left;
};

// A sample as the warps read it. A target is a pixel of the window, or beyond its last one a pixel of the
// launch's images; kOutside is nothing to do.
template <typename Real>
struct alignas(16) Target {
  int pixel[4];
  Real weight[4];
  int row, tap;  // row is kOutside when no corner has a target
};

template <typename Real>
constexpr int target_bytes() {
  return kSamplesOfWarp * sizeof(Target<Real>);
}

template <typename Sum, int kCount>
constexpr int64_t window_bytes(int pixels) {
  return static_cast<int64_t>(pixels) * kLanesOfCorner * kCount * sizeof(typename Sum::Value);
}

template <typename Real>
DCN_DEVICE int target_pixel(const Sampling& s, const Window& window, int image, int pixel) {
  if (pixel == kOutside) return kOutside;
  const int within = pixel - image * s.height * s.width, y = within / s.width, x = within - y * s.width;
  const int row = y - window.top, column = x - window.left;
  const bool inside = row >= 0 && row < window.height && column >= 0 && column < window.width;
  return inside ? row * window.width + column : window.height * window.width + pixel;
}

template <typename Real>
DCN_DEVICE Target<Real> locate_target(const ScatterParams& p, const Tile& tile, const Window& window,
                                      int offset_group, int index) {
  const Sampling& s = p.sampling;
  const int within = index / s.taps(), tap = index - within * s.taps();
  const int y = tile.top + within / p.tile_width, x = tile.left + within % p.tile_width;
  const int row = (tile.image * s.out_height + y) * s.out_width + x - s.first;
  Target<Real> target{};
  target.row = kOutside;
  const bool there = within < p.tile_height * p.tile_width && y < s.out_height && x < s.out_width;
  if (!there || row < 0 || row >= s.rows) return target;
  const Sample<Real> sample = locate<Real>(s, row, {tile.image, y, x}, offset_group * s.taps() + tap);
  target.tap = tap;
  for (int corner = 0; corner < 4; ++corner) {
    target.pixel[corner] = target_pixel<Real>(s, window, tile.image, sample.pixel[corner]);
    target.weight[corner] = sample.weight[corner];
    if (sample.pixel[corner] != kOutside) target.row = row;
  }
  return target;
}

// What a warp sums, for the channels that its lanes share: lane l works on corner l / 8 and the kCount
// channels from `channel` on.
template <typename Element, typename Sum, int kCount>
struct Slice {
  using Real = Accumulate<Element>;
  using Value = typename Sum::Value;

  Value* window;  // [pixels, 8 lanes, kCount], shared memory
  int pixels;
  Value* global;  // [images, H, W, C_in]
  int channels;   // C_in
  int channel;
  bool active;  // whether the lane has channels at all
  int lane;
  Real scale;

  DCN_DEVICE Value* window_at(int pixel) const {
    return window + (pixel * kLanesOfCorner + lane % kLanesOfCorner) * kCount;
  }

  DCN_DEVICE Value* global_at(int pixel) const {
    return global + static_cast<int64_t>(pixel) * channels + channel;
  }

  DCN_DEVICE void clear() const {
    for (int pixel = lane / kLanesOfCorner; pixel < pixels; pixel += 4) {
      for (int c = 0; c < kCount; ++c) window_at(pixel)[c] = 0;
    }
  }

  DCN_DEVICE void add(const Target<Real>& target, const Vector<Element, kCount>& gradient) const {
    const int corner = lane / kLanesOfCorner, pixel = target.pixel[corner];
    if (!active || pixel == kOutside) return;
    Value contribution[kCount];
#pragma unroll
    for (int c = 0; c < kCount; ++c) {
      contribution[c] = to_sum<Sum>(target.weight[corner] * widen(gradient, c), scale);
    }
    if (pixel >= pixels) return add_to_global<kCount>(global_at(pixel - pixels), contribution);
    Vector<Value, kCount>& sums = *reinterpret_cast<Vector<Value, kCount>*>(window_at(pixel));
    Vector<Value, kCount> sum = sums;
#pragma unroll
    for (int c = 0; c < kCount; ++c) add_to(sum.value[c], contribution[c]);
    sums = sum;
  }

  DCN_DEVICE void flush(const Window& w, int image, int height, int width) const {
    for (int pixel = lane / kLanesOfCorner; active && pixel < pixels; pixel += 4) {
      const int y = w.top + pixel / w.width, x = w.left + pixel % w.width;
      const Value* sum = window_at(pixel);
      bool sampled = false;
      for (int c = 0; c < kCount; ++c) sampled |= sum[c] != 0;
      if (sampled) add_to_global<kCount>(global_at((image * height + y) * width + x), sum);
    }
  }
};

// A block is one tile, some slices of one offset group, and a warp for each slice.
struct ScatterBlock {
  Tile tile;
  Window window;
  int offset_group;
  int first_slice;  // of the offset group
};

template <int kWidth>
DCN_DEVICE ScatterBlock scatter_block(const ScatterParams& p) {
  const Sampling& s = p.sampling;
  const int tiles_x = (s.out_width + p.tile_width - 1) / p.tile_width;
  const int tiles_y = (s.out_height + p.tile_height - 1) / p.tile_height;
  const int slices = (s.channels / s.offset_groups + kWidth - 1) / kWidth;
  const int blocks_of_group = (slices + p.slices_per_block - 1) / p.slices_per_block;
  ScatterBlock block;
  int index = block_index();
  block.first_slice = index % blocks_of_group * p.slices_per_block;
  index /= blocks_of_group;
  block.offset_group = index % s.offset_groups;
  index /= s.offset_groups;
  block.tile.left = index % tiles_x * p.tile_width;
  index /= tiles_x;
  block.tile.top = index % tiles_y * p.tile_height;
  block.tile.image = index / tiles_y;
  window_axis(block.tile.top, p.tile_height, s.stride_height, s.padding_height,
              (s.kernel_height - 1) * s.dilation_height, s.height, p.window_height, block.window.top,
              block.window.height);
  window_axis(block.tile.left, p.tile_width, s.stride_width, s.padding_width,
              (s.kernel_width - 1) * s.dilation_width, s.width, p.window_width, block.window.left,
              block.window.width);
  return block;
}

// The slice of this thread's warp; windows lie behind the targets, one after the other.
template <typename Element, typename Sum, int kCount>
DCN_DEVICE Slice<Element, Sum, kCount> slice_of_warp(const ScatterParams& p, const ScatterBlock& block,
                                                     void* windows) {
  constexpr int kWidth = kLanesOfCorner * kCount;
  const int warp = thread_index() / kWarpLanes, lane = thread_index() % kWarpLanes;
  const int group_channels = p.sampling.channels / p.sampling.offset_groups;
  const int in_group = (block.first_slice + warp) * kWidth + lane % kLanesOfCorner * kCount;
  Slice<Element, Sum, kCount> slice;
  slice.window =
      static_cast<typename Sum::Value*>(windows) + warp * p.window_height * p.window_width * kWidth;
  slice.pixels = block.window.height * block.window.width;
  slice.global = static_cast<typename Sum::Value*>(p.grad_input);
  slice.channels = p.sampling.channels;
  slice.channel = block.offset_group * group_channels + in_group;
  slice.active = in_group < group_channels;
  slice.lane = lane;
  slice.scale = Sum::kFixed ? *static_cast<const Accumulate<Element>*>(p.scale) : Accumulate<Element>(1);
  return slice;
}

// Adds what the located samples contribute to the slice, in their order.
template <typename Element, typename Sum, int kCount>
DCN_DEVICE void add_samples(const ScatterParams& p, const Slice<Element, Sum, kCount>& slice,
                            const Target<Accumulate<Element>>* targets) {
  constexpr int kAhead = 4;  // loads in flight
  const Element* gradients = static_cast<const Element*>(p.grad_columns);
  for (int i = 0; i < block_threads(); i += kAhead) {
    Vector<Element, kCount> gradient[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int row = targets[i + j].row;
      if (row == kOutside || !slice.active) continue;
      gradient[j] = load_vector<Element, kCount>(
          gradients + column_index(p.sampling, p.groups, row, targets[i + j].tap, slice.channel));
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (targets[i + j].row == kOutside) continue;
      slice.add(targets[i + j], gradient[j]);
      synchronize_warp();  // the next sample may add to the same pixel from another lane
    }
  }
}

template <typename Element, typename Sum, int kCount>
DCN_DEVICE void scatter(const ScatterParams& p) {
  using Real = Accumulate<Element>;
  const ScatterBlock block = scatter_block<kLanesOfCorner * kCount>(p);
  Target<Real>* targets = static_cast<Target<Real>*>(shared_memory());
  const auto slice = slice_of_warp<Element, Sum, kCount>(p, block, targets + block_threads());
  slice.clear();
  const int samples = p.tile_height * p.tile_width * p.sampling.taps();
  for (int first = 0; first < samples; first += block_threads()) {
    synchronize_block();  // nobody reads the targets before any more, and the windows are clear
    targets[thread_index()] =
        locate_target<Real>(p, block.tile, block.window, block.offset_group, first + thread_index());
    synchronize_block();
    add_samples(p, slice, targets);
  }
  slice.flush(block.window, block.tile.image, p.sampling.height, p.sampling.width);
}

}  // namespace dcn::cuda
