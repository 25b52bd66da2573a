// The gradient of the weight, summed block by block.
#pragma once

#include "products.h"

namespace dcn::cpu {

// The order of summation is that of the positions, block by block; an element of the gradient is summed
// within one thread.
template <typename Element>
class GradWeight {
 public:
  using Real = Accumulate<Element>;

  GradWeight(const DeformConv2dParams& p, int64_t block_rows)
      : p_(p),
        row_length_(p.taps() * groups_.in_channels),
        panel_(kernels_.panel_width(groups_.in_channels)),
        panels_((groups_.in_channels + panel_ - 1) / panel_),
        sums_(zeros<Real>(p.grad_weight ? p.out_channels * row_length_ : 0)),
        steps_(uninitialized<Element>(
            kTogether<Element> > 1 ? steps(block_rows) * kTogether<Element> * p.out_channels : 0)) {}

  // What follows adds the positions [first, first + rows); `first` begins a block.
  void start(int64_t first, int64_t rows) {
    rows_ = rows;
    left_ = grad_output_transposed(static_cast<const Element*>(p_.grad_output) + first * p_.out_channels);
  }

  // Adds grad_output^T x columns for the taps of a run.
  void add(const Element* columns, TapRun taps) {
    parallel_for(0, groups_.count * taps.count * panels_, 1, [&](int64_t begin, int64_t end) {
      const auto packed = zeros<Element>((rows_ + 1) * panel_);
      for (int64_t i = begin; i < end; ++i) add_panel(columns, taps, i, packed.get());
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
  static int64_t steps(int64_t rows) { return (rows + kTogether<Element> - 1) / kTogether<Element>; }

  // [C_out, rows], whose steps of depth are positions.
  Matrix<Element> grad_output_transposed(const Element* grad_output) {
    constexpr int64_t together = kTogether<Element>;
    if (together == 1) return {grad_output, 1, rows_, p_.out_channels};
    parallel_for(0, steps(rows_), 16, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * together, last = std::min(end * together, rows_);
      kernels_.pack(grad_output + first * p_.out_channels, last - first, p_.out_channels, p_.out_channels, 1,
                    p_.out_channels, steps_.get() + first * p_.out_channels);
    });
    return {steps_.get(), together, steps(rows_), together * p_.out_channels};
  }

  // `index` counts the panels of all groups and of the run's taps.
  void add_panel(const Element* columns, TapRun taps, int64_t index, Element* packed) {
    const int64_t group = index / panels_ / taps.count, tap = index / panels_ % taps.count;
    const int64_t at = index % panels_ * panel_, width = std::min(panel_, groups_.in_channels - at);
    kernels_.pack(columns + tap * p_.in_channels + group * groups_.in_channels + at, rows_, width,
                  taps.count * p_.in_channels, 1, panel_, packed);
    const int64_t first_out = group * groups_.out_channels;
    Matrix<Element> left = left_;
    left.data += first_out * left.row_stride;
    kernels_.multiply(left, groups_.out_channels, width, panel_, packed, true,
                      sums_.get() + first_out * row_length_ + (taps.first + tap) * groups_.in_channels + at,
                      row_length_);
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
  const int64_t row_length_, panel_, panels_;
  const Buffer<Real> sums_;      // [C_out, K, C_in of a merged group]
  const Buffer<Element> steps_;  // grad_output of a block, where steps have several elements
  int64_t rows_ = 0;
  Matrix<Element> left_{};
};

}  // namespace dcn::cpu
