// Parameters of the CUDA kernels. csrc/README.md explains the layouts.
#pragma once

#include <cstdint>

namespace dcn::cuda {

enum class ElementType : int { float64, float32, float16, bfloat16 };

// Where one launch samples: `rows` neighbouring output positions of the batch, flattened (image, y, x), the
// first of them at `first` in its image. Pointers start at that image (input, grad_input) or that position
// (all others), so that indices of positions and pixels fit 32 bits, which the host side checks; channels are
// added in 64 bits.
struct Sampling {
  int height, width, channels;  // of the input
  int out_height, out_width;
  int kernel_height, kernel_width;
  int stride_height, stride_width;
  int padding_height, padding_width;
  int dilation_height, dilation_width;
  int offset_groups;
  int rows, first;

  const void* input;   // [images, H, W, C_in]
  const void* offset;  // [rows, offset_groups, K, 2], accumulate type, y first
  const void* mask;    // [rows, offset_groups, K], accumulate type; null is a mask of ones

#if defined(__CUDACC__)
  __host__ __device__
#endif
      int taps() const {
    return kernel_height * kernel_width;
  }
};

// Columns and their gradients are [groups, rows, K, C_in / groups], with the weight's groups.
struct GatherParams {
  Sampling sampling;
  int groups;
  int lanes;              // that share a sample; a power of two of at most 32
  int samples_per_block;  // a multiple of the samples that a block works on at a time
  void* columns;          // may be null, as all below

  const void* grad_columns;  // backward only, as all below
  void* grad_offset;         // [rows, offset_groups, K, 2], accumulate type
  void* grad_mask;           // [rows, offset_groups, K], accumulate type
  void* grad_input;          // [images, H, W, C_in], float32 sums that are added to
};

// Output positions in tiles, channels in slices. What a tile's samples add to the pixels of its window is
// summed in shared memory first; what falls beside it goes to global memory one by one.
struct ScatterParams {
  Sampling sampling;
  int groups;
  int tile_height, tile_width;      // output positions
  int window_height, window_width;  // the most pixels of the input that a window has; 0 is no window
  int slices_per_block;             // a warp works on each
  const void* grad_columns;
  void* grad_input;   // [images, H, W, C_in], sums
  const void* scale;  // of fixed-point sums, one number of the accumulate type
};

// Implicit matrix product of columns, which exist in shared memory only, and the weight.
struct FusedParams {
  Sampling sampling;
  int out_channels, groups;
  const void* weight;  // [C_out, K, C_in / groups]
  const void* bias;    // [C_out], may be null
  void* output;        // [rows, C_out]
};

// RoI pooling. A cell is what one group of lanes computes: a bin of one region, for one offset group and, in
// a forward or a scatter, one slice of its channels.
struct RoiPooling {
  int height, width, channels;  // of the input
  int64_t images;
  int regions, out_channels, offset_groups;
  int bins_height, bins_width;
  int sampling_ratio;  // 0 where the size of a region decides
  bool position_sensitive;
  double spatial_scale, gamma;

  const void* input;   // [N, H, W, C_in]; where it is position-sensitive C_in is [K, C_out]
  const void* boxes;   // [R, 5], accumulate type, as all below: image, x1, y1, x2, y2
  const void* offset;  // [R, offset_groups, 2, K], x first; may be null
  const void* mask;    // [R, offset_groups, K]; null is a mask of ones

  int lanes;  // of a cell; a power of two from 2 to 32
  int slices;
  int blocks_per_region, cells_per_block;  // cells in a multiple of those that a block works on at a time

#if defined(__CUDACC__)
  __host__ __device__
#endif
      int bins() const {
    return bins_height * bins_width;
  }
};

struct RoiGatherParams {
  RoiPooling pooling;
  void* output;  // [R, K, C_out], forward only

  const void* grad_output;  // [R, K, C_out], backward only, as all below; the gradients may be null
  void* grad_offset;        // as offset
  void* grad_mask;          // as mask
};

struct RoiScatterParams {
  RoiPooling pooling;
  const void* grad_output;  // [R, K, C_out]
  void* grad_input;         // as input, sums
  const void* scale;        // of fixed-point sums, one number of the accumulate type
};

}  // namespace dcn::cuda
