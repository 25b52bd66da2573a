// Columns, and the gradients of offset and mask; where a GPU adds 16 bytes at once in its second-level cache,
// the gradient of the input too. A block locates its samples once, into shared memory; then lanes side by
// side take neighbouring channels of one sample, several channels each.
#pragma once

#include "samples.cuh"
#include "sums.cuh"

namespace dcn::cuda {

constexpr int kGatherThreads = 128;

template <typename Real>
constexpr int gather_shared_bytes(int samples_per_block) {
  return samples_per_block * sizeof(Sample<Real>);
}

template <typename Element, int kCount>
constexpr bool kAddsToPixels = kCount % 4 == 0 && std::is_same_v<Accumulate<Element>, float>;

// The gradients that follow from the inner products of the corners with the gradient of the column.
template <typename Real>
DCN_DEVICE void store_sample_gradients(const GatherParams& p, const Sample<Real>& sample,
                                       const Real product[4], int64_t index) {
  if (p.grad_offset) {
    const Vector<Real, 2> gradient{sample.mask * interpolate_dy(product, sample.dx),
                                   sample.mask * interpolate_dx(product, sample.dy)};
    store_vector(static_cast<Real*>(p.grad_offset) + 2 * index, gradient);
  }
  if (p.grad_mask) static_cast<Real*>(p.grad_mask)[index] = interpolate(product, sample.dy, sample.dx);
}

// Adds what a sample's column gives to the gradients of its four pixels, four channels at a time.
template <typename Element, int kCount>
DCN_DEVICE void add_to_pixels(const GatherParams& p, const Corners<float>& sample, int channel,
                              const Vector<Element, kCount>& gradient) {
  float* sums = static_cast<float*>(p.grad_input) + channel;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    if (sample.pixel[corner] == kOutside) continue;
    float* pixel = sums + static_cast<int64_t>(sample.pixel[corner]) * p.sampling.channels;
#pragma unroll
    for (int c = 0; c < kCount; c += 4) {
      float contribution[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) contribution[i] = sample.weight[corner] * widen(gradient, c + i);
      add_to_global<4>(pixel + c, contribution);
    }
  }
}

// Lane `lane` of `p.lanes` at one sample of row `row`: its share of the channels of the offset group.
template <typename Element, int kCount, bool kBackward>
DCN_DEVICE void gather_channels(const GatherParams& p, const Sample<Accumulate<Element>>& sample, int row,
                                int group_tap, int lane, Accumulate<Element> product[4]) {
  const Sampling& s = p.sampling;
  const int group = group_tap / s.taps(), tap = group_tap - group * s.taps();
  const int group_channels = s.channels / s.offset_groups, last = (group + 1) * group_channels;
#pragma unroll 2
  for (int channel = group * group_channels + lane * kCount; channel < last; channel += p.lanes * kCount) {
    const int64_t column = column_index(s, p.groups, row, tap, channel);
    Vector<Element, kCount> corner[4];
    load_corners(s, sample.pixel, channel, corner);
    if constexpr (kBackward) {  // first: columns may take the memory of their gradient
      const auto gradient =
          load_before_store<Element, kCount>(static_cast<const Element*>(p.grad_columns) + column);
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) product[i] += widen(gradient, c) * widen(corner[i], c);
      }
      if constexpr (kAddsToPixels<Element, kCount>) {
        if (p.grad_input) add_to_pixels<Element, kCount>(p, sample, channel, gradient);
      }
    }
    if (p.columns) {
      store_vector(static_cast<Element*>(p.columns) + column, weighted_sum(corner, sample.weight));
    }
  }
}

// Samples are numbered row * offset_groups * K + group * K + tap.
template <typename Element, int kCount, bool kBackward>
DCN_DEVICE void gather(const GatherParams& p) {
  using Real = Accumulate<Element>;
  const Sampling& s = p.sampling;
  Sample<Real>* samples = static_cast<Sample<Real>*>(shared_memory());
  const int per_row = s.offset_groups * s.taps();
  const int first = block_index() * p.samples_per_block, all = s.rows * per_row - first;
  const int count = all < p.samples_per_block ? all : p.samples_per_block;
  for (int i = thread_index(); i < count; i += block_threads()) {
    const int row = (first + i) / per_row;
    samples[i] = locate<Real>(s, row, position_of(s, row), first + i - row * per_row);
  }
  synchronize_block();

  // Every lane stays to the end, also where there is no sample left for it: shuffles need whole warps.
  const int lane = thread_index() % p.lanes, together = block_threads() / p.lanes;
  for (int i = thread_index() / p.lanes; i < p.samples_per_block; i += together) {
    const bool there = i < count;
    const int index = first + i, row = index / per_row;
    Real product[4] = {0, 0, 0, 0};
    if (there) {
      gather_channels<Element, kCount, kBackward>(p, samples[i], row, index - row * per_row, lane, product);
    }
    if constexpr (kBackward) {
      for (int distance = p.lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) product[corner] += shuffle_xor(product[corner], distance);
      }
      if (there && lane == 0) store_sample_gradients(p, samples[i], product, index);
    }
  }
}

}  // namespace dcn::cuda
