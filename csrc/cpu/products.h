// The matrix products of deformable convolution, group by group.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "workspace.h"

namespace dcn::cpu {

using torch::stable::parallel_for;

enum class Direction { forward, backward };

enum class Groups { merged, apart };

// Groups narrower than a vector are merged into one with a block-diagonal weight: multiplying by zeros costs
// less than working on vectors that are mostly empty. Zero times infinity is NaN, though: where the left side
// of a product is not finite, its groups are kept apart.
struct MergedGroups {
  int64_t merged;                     // groups in one
  int64_t count;                      // of merged groups
  int64_t in_channels, out_channels;  // of a merged group

  MergedGroups(const DeformConv2dParams& p, int64_t lanes, Groups groups = Groups::merged) {
    const int64_t wider = std::max(p.group_channels(), p.group_out_channels());
    merged = groups == Groups::apart ? 1 : std::min(p.groups, std::max<int64_t>(1, lanes / wider));
    while (p.groups % merged) --merged;
    count = p.groups / merged;
    in_channels = merged * p.group_channels();
    out_channels = merged * p.group_out_channels();
  }
};

// The weight as a right-hand matrix: forward, its depth is input channels and its columns output channels;
// backward, the other way round. Packed panel by panel of one group and tap, taps side by side in the depth
// of the forward product: [groups, panels, K, panel] forward, [groups, K, panels, panel] backward.
template <typename Element>
class PackedWeight {
 public:
  PackedWeight(const DeformConv2dParams& p, const MergedGroups& groups, Direction direction)
      : p_(p),
        groups_(groups),
        forward_(direction == Direction::forward),
        depth_(forward_ ? groups.in_channels : groups.out_channels),
        columns_(forward_ ? groups.out_channels : groups.in_channels),
        panel_(kernels_.panel_width(columns_)),
        panels_((columns_ + panel_ - 1) / panel_),
        panel_size_((depth_ + kTogether<Element> - 1) / kTogether<Element> * kTogether<Element> * panel_),
        packed_(uninitialized<Element>(groups.count * panels_ * p.taps() * panel_size_)) {
    parallel_for(0, groups.count * panels_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pack(i / panels_, i % panels_);
    });
  }

  int64_t panel_width() const { return panel_; }

  const Element* panel(int64_t group, int64_t tap, int64_t panel) const {
    const int64_t index =
        forward_ ? (group * panels_ + panel) * p_.taps() + tap : (group * p_.taps() + tap) * panels_ + panel;
    return packed_.get() + index * panel_size_;
  }

 private:
  static constexpr int64_t kPackDepth = 16;  // one line of a weight in the usual layout, whose taps are dense

  void pack(int64_t group, int64_t panel) {
    const int64_t width = std::min(panel_, columns_ - panel * panel_);
    if (groups_.merged > 1 || width < panel_) clear(group, panel);
    for (int64_t part = 0; part < groups_.merged; ++part) {
      for (int64_t k = 0; k < depth_ / groups_.merged; k += kPackDepth) {
        for (int64_t tap = 0; tap < p_.taps(); ++tap) pack_block(group, part, tap, panel, k, width);
      }
    }
  }

  void clear(int64_t group, int64_t panel) {
    for (int64_t tap = 0; tap < p_.taps(); ++tap) {
      std::fill_n(const_cast<Element*>(this->panel(group, tap, panel)), panel_size_, Element(0));
    }
  }

  // A part is one of the groups that were merged.
  void pack_block(int64_t group, int64_t part, int64_t tap, int64_t panel, int64_t k, int64_t width) {
    const Strides4& strides = p_.weight_strides;
    const int64_t depth_stride = forward_ ? strides.channel : strides.batch;
    const int64_t column_stride = forward_ ? strides.batch : strides.channel;
    const int64_t depth = depth_ / groups_.merged, columns = columns_ / groups_.merged;
    const Element* weight = static_cast<const Element*>(p_.weight) + p_.tap_offset(tap, strides) +
                            (group * groups_.merged + part) * p_.group_out_channels() * strides.batch;
    Element* packed = const_cast<Element*>(this->panel(group, tap, panel)) + (part * depth + k) * panel_ +
                      part * columns * kTogether<Element>;
    kernels_.pack(weight + k * depth_stride + panel * panel_ * column_stride, std::min(kPackDepth, depth - k),
                  std::min(columns, width), depth_stride, column_stride, panel_, packed);
  }

  const DeformConv2dParams& p_;
  const MergedGroups& groups_;
  const GemmKernels<Element>& kernels_ = gemm_kernels<Element>();
  const bool forward_;
  const int64_t depth_, columns_, panel_, panels_, panel_size_;
  const Buffer<Element> packed_;
};

template <typename Value>
bool all_finite(const Value* values, int64_t count) {
  Accumulate<Value> sum = 0;  // of zeros, or NaN
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<Accumulate<Value>>(values[i]) * 0;
  return sum == 0;
}

// Rows are output positions from `first` on; columns and grad_columns are [rows, K, C_in].
template <typename Element>
class Products {
 public:
  using Real = Accumulate<Element>;

  Products(const DeformConv2dParams& p, Direction direction, Groups groups = Groups::merged)
      : p_(p), groups_(p, kernels_.lanes, groups), weight_(p, groups_, direction) {}

  bool merged() const { return groups_.merged > 1; }

  // sums = columns x weight^T + bias, [rows, C_out]
  void output(const Element* columns, int64_t rows, Real* sums) const {
    if (p_.bias) fill_with_bias(rows, sums);
    const bool accumulate = p_.bias != nullptr;
    for (int64_t group = 0; group < groups_.count; ++group) {
      const Matrix<Element> matrix{columns + group * groups_.in_channels,
                                   p_.column_length(),
                                   groups_.in_channels / kTogether<Element>,
                                   kTogether<Element>,
                                   p_.taps(),
                                   p_.in_channels};
      kernels_.multiply(matrix, rows, groups_.out_channels, weight_.panel_width(), weight_.panel(group, 0, 0),
                        accumulate, sums + group * groups_.out_channels, p_.out_channels);
    }
  }

  // grad_columns = grad_output x weight
  void grad_columns(int64_t first, int64_t rows, Real* grad_columns) const {
    for (int64_t group = 0; group < groups_.count; ++group) {
      const Matrix<Element> matrix{grad_output(first) + group * groups_.out_channels, p_.out_channels,
                                   groups_.out_channels / kTogether<Element>, kTogether<Element>};
      for (int64_t tap = 0; tap < p_.taps(); ++tap) {
        kernels_.multiply(
            matrix, rows, groups_.in_channels, weight_.panel_width(), weight_.panel(group, tap, 0), false,
            grad_columns + tap * p_.in_channels + group * groups_.in_channels, p_.column_length());
      }
    }
  }

  const Element* grad_output(int64_t first) const {
    return static_cast<const Element*>(p_.grad_output) + first * p_.out_channels;
  }

 private:
  void fill_with_bias(int64_t rows, Real* sums) const {
    const Real* bias = static_cast<const Real*>(p_.bias);
    for (int64_t row = 0; row < rows; ++row) std::copy_n(bias, p_.out_channels, sums + row * p_.out_channels);
  }

  const DeformConv2dParams& p_;
  const GemmKernels<Element>& kernels_ = gemm_kernels<Element>();
  const MergedGroups groups_;
  const PackedWeight<Element> weight_;
};

}  // namespace dcn::cpu
