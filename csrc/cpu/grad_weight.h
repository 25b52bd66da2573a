// The gradient of the weight, summed block by block.
#pragma once

#include "products.h"

namespace dcn::cpu {

// The order of summation is that of the positions, by blocks of `block_rows`; an element of the gradient is
// summed within one thread.
template <typename Element>
class GradWeight {
 public:
  using Real = Accumulate<Element>;

  GradWeight(const DeformConv2dParams& p, int64_t block_rows)
      : p_(p),
        block_rows_(block_rows),
        row_length_(p.taps() * groups_.in_channels),
        panel_(kernels_.panel_width(groups_.in_channels)),
        panels_((groups_.in_channels + panel_ - 1) / panel_),
        sums_(new Real[p.grad_weight ? p.out_channels * row_length_ : 0]()) {}

  // Adds grad_output^T x columns of the positions [first, first + rows); `first` begins a block.
  void add(const Element* columns, int64_t first, int64_t rows) {
    const Matrix<Element> left = grad_output_transposed(first, rows);
    parallel_for(0, groups_.count * p_.taps() * panels_, 1, [&](int64_t begin, int64_t end) {
      const int64_t size = (std::min(block_rows_, rows) + 1) * panel_;
      const auto packed = uninitialized<Element>(size);
      std::fill_n(packed.get(), size, Element(0));
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t row = 0; row < rows; row += block_rows_) {
          add_panel(left, columns, row, std::min(block_rows_, rows - row), i, packed.get());
        }
      }
    });
  }

  void add(const GradWeight& other) {
    parallel_for(0, p_.out_channels * row_length_, 1 << 15, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums_[i] += other.sums_[i];
    });
  }

  // Writes the sums to grad_weight.
  void store() const {
    parallel_for(0, p_.out_channels, 16, [&](int64_t begin, int64_t end) {
      for (int64_t channel = begin; channel < end; ++channel) {
        for (int64_t tap = 0; tap < p_.taps(); ++tap) store_row(channel, tap);
      }
    });
  }

 private:
  // [C_out, rows], whose steps of depth are positions.
  Matrix<Element> grad_output_transposed(int64_t first, int64_t rows) {
    const Element* grad_output = static_cast<const Element*>(p_.grad_output) + first * p_.out_channels;
    if constexpr (kTogether<Element> == 1) {
      return {grad_output, 1, rows, p_.out_channels};
    } else {
      constexpr int64_t together = kTogether<Element>;
      if (!steps_)
        steps_ = uninitialized<Element>((rows + together - 1) / together * together * p_.out_channels);
      parallel_for(0, (rows + together - 1) / together, 16, [&](int64_t begin, int64_t end) {
        const int64_t row = begin * together;
        kernels_.pack(grad_output + row * p_.out_channels, std::min(end * together, rows) - row,
                      p_.out_channels, p_.out_channels, 1, p_.out_channels,
                      steps_.get() + row * p_.out_channels);
      });
      return {steps_.get(), together, rows, together * p_.out_channels};
    }
  }

  // `index` counts the panels of all groups and taps.
  void add_panel(Matrix<Element> left, const Element* columns, int64_t row, int64_t rows, int64_t index,
                 Element* packed) {
    const int64_t group = index / panels_ / p_.taps(), tap = index / panels_ % p_.taps();
    const int64_t at = index % panels_ * panel_, width = std::min(panel_, groups_.in_channels - at);
    kernels_.pack(
        columns + row * p_.column_length() + tap * p_.in_channels + group * groups_.in_channels + at, rows,
        width, p_.column_length(), 1, panel_, packed);
    const int64_t first_out = group * groups_.out_channels;
    left.data += row * p_.out_channels + first_out * left.row_stride;
    left.depth = (rows + kTogether<Element> - 1) / kTogether<Element>;
    kernels_.multiply(left, groups_.out_channels, width, panel_, packed, true,
                      sums_.get() + first_out * row_length_ + tap * groups_.in_channels + at, row_length_);
  }

  void store_row(int64_t channel, int64_t tap) const {
    const int64_t part = channel / p_.group_out_channels() % groups_.merged;
    const Real* sums =
        sums_.get() + channel * row_length_ + tap * groups_.in_channels + part * p_.group_channels();
    const Strides4& strides = p_.grad_weight_strides;
    Real* result = static_cast<Real*>(p_.grad_weight) + channel * strides.batch + p_.tap_offset(tap, strides);
    for (int64_t c = 0; c < p_.group_channels(); ++c) result[c * strides.channel] = sums[c];
  }

  const DeformConv2dParams& p_;
  const GemmKernels<Element>& kernels_ = gemm_kernels<Element>();
  const MergedGroups groups_{p_, kernels_.lanes};
  const int64_t block_rows_, row_length_, panel_, panels_;
  const Buffer<Real> sums_;  // [C_out, K, C_in of a merged group]
  Buffer<Element> steps_;    // grad_output of the first block, which is the largest, in steps
};

}  // namespace dcn::cpu
