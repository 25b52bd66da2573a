// The matrix products of deformable convolution in float and double, on our own kernels (gemm.inc).
#pragma once

#include <torch/csrc/stable/ops.h>

#include "workspace.h"

namespace dcn::cpu {

enum class Direction { forward, backward };

// Rows are output positions from `first` on; columns and grad_columns are [rows, groups, K, C_in / groups].
template <typename Real>
class PackedProducts {
 public:
  PackedProducts(const DeformConv2dParams& p, Direction direction)
      : p_(p),
        length_(p.taps() * p.group_channels()),
        out_(p.out_channels / p.groups),
        forward_(direction == Direction::forward),
        packed_size_(forward_ ? kernels_.packed_size(length_, out_) : kernels_.packed_size(out_, length_)),
        packed_(uninitialized<Real>(p.groups * packed_size_)) {
    torch::stable::parallel_for(0, p.groups * panels(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pack_panel(i / panels(), i % panels());
    });
  }

  // output = columns x weight^T + bias
  void output(const Real* columns, int64_t first, int64_t rows) const {
    for (int64_t group = 0; group < p_.groups; ++group) {
      Real* output = static_cast<Real*>(p_.output) + first * p_.out_channels + group * out_;
      if (p_.bias) fill_rows(output, rows, static_cast<const Real*>(p_.bias) + group * out_);
      kernels_.multiply({columns + group * length_, p_.column_length(), 1}, rows, length_, out_,
                        packed_.get() + group * packed_size_, p_.bias != nullptr, output, p_.out_channels);
    }
  }

  // grad_columns = grad_output x weight
  void grad_columns(int64_t first, int64_t rows, Real* grad_columns) const {
    torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t group = 0; group < p_.groups; ++group) {
        kernels_.multiply({grad_output(first + begin, group), p_.out_channels, 1}, end - begin, out_, length_,
                          packed_.get() + group * packed_size_, false,
                          grad_columns + begin * p_.column_length() + group * length_, p_.column_length());
      }
    });
  }

  // grad_weight += grad_output^T x columns; the caller keeps `scratch` from block to block.
  void grad_weight(const Real* columns, int64_t first, int64_t rows, Real* grad_weight,
                   Buffer<Real>& /*scratch*/) const {
    const int64_t panels = (length_ + kernels_.panel - 1) / kernels_.panel;
    torch::stable::parallel_for(0, p_.groups * panels, 1, [&](int64_t begin, int64_t end) {
      const auto packed = uninitialized<Real>(kernels_.packed_size(rows, kernels_.panel));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / panels, at = i % panels * kernels_.panel;
        const int64_t width = std::min(kernels_.panel, length_ - at);
        kernels_.pack(columns + group * length_ + at, rows, width, p_.column_length(), 1, packed.get());
        kernels_.multiply({grad_output(first, group), 1, p_.out_channels}, out_, rows, width, packed.get(),
                          true, grad_weight + group * out_ * length_ + at, length_);
      }
    });
  }

 private:
  const Real* grad_output(int64_t first, int64_t group) const {
    return static_cast<const Real*>(p_.grad_output) + first * p_.out_channels + group * out_;
  }

  int64_t panels() const { return ((forward_ ? out_ : length_) + kernels_.panel - 1) / kernels_.panel; }

  void pack_panel(int64_t group, int64_t panel) {
    const Real* weight = static_cast<const Real*>(p_.weight) + group * out_ * length_;
    const int64_t at = panel * kernels_.panel;
    Real* packed = packed_.get() + group * packed_size_;
    if (forward_) {
      kernels_.pack(weight + at * length_, length_, std::min(kernels_.panel, out_ - at), 1, length_,
                    packed + at * length_);
    } else {
      kernels_.pack(weight + at, out_, std::min(kernels_.panel, length_ - at), length_, 1,
                    packed + at * out_);
    }
  }

  void fill_rows(Real* output, int64_t rows, const Real* bias) const {
    for (int64_t row = 0; row < rows; ++row) std::copy_n(bias, out_, output + row * p_.out_channels);
  }

  const DeformConv2dParams& p_;
  const GemmKernels<Real>& kernels_ = gemm_kernels<Real>();
  const int64_t length_, out_;  // of one group: column length, output channels
  const bool forward_;
  const int64_t packed_size_;
  const Buffer<Real> packed_;
};

}  // namespace dcn::cpu
