// How the work of RoI pooling is cut into blocks, and the pixels of a block.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <vector>

#include "roi_kernels.h"
#include "workspace.h"

namespace dcn::cpu {

using torch::stable::parallel_for;

constexpr int64_t kRoIChannels = 64;  // of a block, four vectors with AVX-512
constexpr int64_t kFewestRoIChannels = 16;
constexpr int64_t kConvertedRoIBytes = 5 << 18;  // a thread's, as far as narrower blocks keep to it
constexpr int64_t kMostConvertedRoIBytes = 8 << 20;

// Blocks of bins and of output channels, and whether a thread makes its block of an image dense first: each
// pixel's channels side by side. That takes a pass over the block, so that there have to be enough regions.
struct RoIPlan {
  bool converted;
  int64_t block_bins, block_channels;
  int64_t bin_blocks, channel_blocks;

  // Sums do not depend on the blocks as long as they are formed for each channel apart; then blocks become
  // narrower until there are `units` of images and blocks.
  template <typename Real>
  RoIPlan(const DeformRoIPoolParams& p, const Regions<Real>& regions, int64_t units = 1)
      : block_bins(p.position_sensitive ? p.bins_width : p.bins()),
        block_channels(std::min(kRoIChannels, p.out_channels)) {
    const int64_t channel_bytes = p.pixels() * planes(p) * static_cast<int64_t>(sizeof(Real));
    while (block_channels > kFewestRoIChannels && block_channels * channel_bytes > kConvertedRoIBytes) {
      block_channels /= 2;
    }
    const bool dense = p.layout == Layout::channels_last && !p.position_sensitive;
    const double bins = p.position_sensitive ? 1 : static_cast<double>(p.bins());
    converted = !dense && block_channels * channel_bytes <= kMostConvertedRoIBytes &&
                bins * regions.pixels_of_a_bin(p) >= static_cast<double>(regions.images() * p.pixels());
    if (!converted) block_channels = std::min(kRoIChannels, p.out_channels);
    bin_blocks = p.bins() / block_bins;
    while (block_channels > kFewestRoIChannels &&
           regions.images() * bin_blocks * (p.out_channels / block_channels) < units) {
      block_channels = std::max(kFewestRoIChannels, block_channels / 2);
    }
    channel_blocks = (p.out_channels + block_channels - 1) / block_channels;
  }

  // Of an image in a dense block: bins have channels of their own where they are position-sensitive.
  int64_t planes(const DeformRoIPoolParams& p) const { return p.position_sensitive ? block_bins : 1; }

  int64_t blocks() const { return bin_blocks * channel_blocks; }
  int64_t channel_block(int64_t i) const { return i / bin_blocks; }

  RoIBlock block(const DeformRoIPoolParams& p, int64_t i) const {
    const int64_t first = channel_block(i) * block_channels;
    return {i % bin_blocks * block_bins, block_bins, first, std::min(block_channels, p.out_channels - first)};
  }
};

inline RoIBlock whole_region(const DeformRoIPoolParams& p) { return {0, p.bins(), 0, p.out_channels}; }

// A block's pixels where they lie in the input or its gradient.
template <typename Value>
RoIPixels<Value> pixels_in_place(const DeformRoIPoolParams& p, Value* images, int64_t image,
                                 const RoIBlock& block) {
  const bool channels_last = p.layout == Layout::channels_last;
  const int64_t channel = channels_last ? 1 : p.pixels();
  const RoIPixels<Value> pixels{images + image * p.in_channels * p.pixels(),
                                p.position_sensitive ? channel : 0, channels_last ? p.in_channels : 1,
                                p.position_sensitive ? p.bins() * channel : channel};
  return {pixels.data + block.first_bin * pixels.bin_stride + block.first_channel * pixels.channel_stride,
          pixels.bin_stride, pixels.pixel_stride, pixels.channel_stride};
}

// The same pixels dense, in memory of [planes, H * W, channels].
template <typename Value>
RoIPixels<Value> dense_pixels(const DeformRoIPoolParams& p, Value* memory, const RoIBlock& block) {
  const int64_t plane = p.position_sensitive ? p.pixels() * block.channels : 0;
  return {memory, plane, block.channels, 1};
}

// Between a block's pixels in place and dense ones, either way. One of both has its channels side by side,
// and the other its pixels, or neither.
template <typename From, typename To>
void convert_pixels(const DeformRoIPoolParams& p, const RoIBlock& block, const RoIPixels<From>& from,
                    const RoIPixels<To>& to) {
  const auto transpose = sampling_kernels<To>().transpose;
  const int64_t planes = p.position_sensitive ? block.bins : 1;
  for (int64_t plane = 0; plane < planes; ++plane) {
    From* source = from.data + plane * from.bin_stride;
    To* result = to.data + plane * to.bin_stride;
    if (from.pixel_stride == 1) {
      transpose(source, block.channels, p.pixels(), from.channel_stride, result, to.pixel_stride);
    } else if (to.pixel_stride == 1) {
      transpose(source, p.pixels(), block.channels, from.pixel_stride, result, to.channel_stride);
    }
  }
  if (from.pixel_stride == 1 || to.pixel_stride == 1) return;
  for (int64_t pixel = 0; pixel < p.pixels(); ++pixel) {
    for (int64_t c = 0; c < block.channels; ++c) {
      From* source = from.data + pixel * from.pixel_stride + c * from.channel_stride;
      To* result = to.data + pixel * to.pixel_stride + c * to.channel_stride;
      for (int64_t plane = 0; plane < planes; ++plane) {
        result[plane * to.bin_stride] = source[plane * from.bin_stride];
      }
    }
  }
}

// A block of the input, copied into memory.
template <typename Real>
RoIPixels<const Real> make_dense(const DeformRoIPoolParams& p, int64_t image, const RoIBlock& block,
                                 Real* memory) {
  const auto input = pixels_in_place(p, static_cast<const Real*>(p.input), image, block);
  convert_pixels(p, block, input, dense_pixels(p, memory, block));
  return dense_pixels(p, static_cast<const Real*>(memory), block);
}

// What a thread needs for the taps of a bin or a row of bins.
template <typename Real>
class RoIScratch {
 public:
  explicit RoIScratch(const DeformRoIPoolParams& p)
      : x_capacity_(capacity(p, p.width)),
        slots_(p.offset ? 1 : p.bins_width),
        y_(uninitialized<RoITap<Real>>(capacity(p, p.height))),
        x_(uninitialized<RoITap<Real>>(slots_ * x_capacity_)),
        x_counts_(uninitialized<int64_t>(slots_)) {}

  RoITaps<Real> taps() const { return {y_.get(), x_.get(), x_counts_.get(), x_capacity_}; }

 private:
  // At most two taps for each point, and one for each pixel.
  static int64_t capacity(const DeformRoIPoolParams& p, int64_t length) {
    return p.sampling_ratio > 0 && p.sampling_ratio < length / 2 ? 2 * p.sampling_ratio : length;
  }

  const int64_t x_capacity_, slots_;
  const Buffer<RoITap<Real>> y_, x_;
  const Buffer<int64_t> x_counts_;
};

// Images with regions. Units of work are pairs of a block and an image, the images of a block side by side,
// so that threads get as much each where one image has most of the regions.
template <typename Real>
std::vector<int64_t> images_with_regions(const DeformRoIPoolParams& p, const Regions<Real>& regions) {
  std::vector<int64_t> images;
  for (int64_t image = 0; image < p.batch; ++image) {
    if (regions.count(image) > 0) images.push_back(image);
  }
  return images;
}

// Calls body(block, its number, image, scratch, dense memory or null) for every unit, by all threads.
template <typename Real, typename Body>
void for_each_unit(const DeformRoIPoolParams& p, const Regions<Real>& regions, const RoIPlan& plan,
                   const Body& body) {
  const std::vector<int64_t> images = images_with_regions(p, regions);
  const int64_t count = static_cast<int64_t>(images.size());
  const int64_t dense = plan.converted ? plan.planes(p) * p.pixels() * plan.block_channels : 0;
  parallel_for(0, plan.blocks() * count, 1, [&](int64_t begin, int64_t end) {
    const RoIScratch<Real> scratch(p);
    const auto memory = uninitialized<Real>(dense);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t number = unit / count;
      body(plan.block(p, number), number, images[unit % count], scratch.taps(), memory.get());
    }
  });
}

// Regions that a thread takes at least: waking another costs some microseconds.
inline int64_t fewest_regions(const DeformRoIPoolParams& p) {
  return std::max<int64_t>(1, (1 << 16) / (p.bins() * p.out_channels));
}

}  // namespace dcn::cpu
