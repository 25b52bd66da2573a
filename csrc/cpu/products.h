// The matrix products of deformable convolution with its weight, panel by panel.
#pragma once

#include <optional>

#include "weight.h"

namespace dcn::cpu {

template <typename Value>
bool all_finite(const Value* values, int64_t count) {
  Accumulate<Value> sum = 0;  // of zeros, or NaN
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<Accumulate<Value>>(values[i]) * 0;
  return sum == 0;
}

// When the weight is packed: all of it, before anything else, or each panel by the thread that multiplies by
// it. Where a line of the weight holds all taps of a channel, both mean ahead.
enum class Packing { ahead, on_the_fly };

// Rows are output positions; columns and grad_columns are [rows, taps of the run, C_in].
template <typename Element>
class Products {
 public:
  using Real = Accumulate<Element>;

  Products(const DeformConv2dParams& p, Direction direction, const TapRuns& runs, Packing packing,
           Groups groups = Groups::merged)
      : p_(p), groups_(p, kernels_.lanes, groups), panels_(p, groups_, direction) {
    if (packing == Packing::ahead || !panels_.dense_depth()) packed_.emplace(panels_, runs, groups_.count);
  }

  bool merged() const { return groups_.merged > 1; }
  int64_t panels() const { return groups_.count * panels_.count(); }

  // What a thread needs to pack on the fly.
  int64_t panel_size(const TapRuns& runs) const { return packed_ ? 0 : runs.length * panels_.size(); }

  // sums = columns x weight^T, or sums += to accumulate; panels [first, last) of sums [rows, C_out].
  void output(int64_t first, int64_t last, const Element* columns, TapRun taps, int64_t rows, bool accumulate,
              Element* packed, Real* sums) const {
    for (int64_t i = first; i < last; ++i) {
      const int64_t group = i / panels_.count(), panel = i % panels_.count();
      const Matrix<Element> matrix{columns + group * groups_.in_channels,
                                   taps.count * p_.in_channels,
                                   groups_.in_channels / kTogether<Element>,
                                   kTogether<Element>,
                                   taps.count,
                                   p_.in_channels};
      kernels_.multiply(matrix, rows, panels_.columns(panel), panels_.width(),
                        packed_panel(group, panel, taps, packed), accumulate,
                        sums + group * groups_.out_channels + panel * panels_.width(), p_.out_channels);
    }
  }

  // grad_columns = grad_output x weight, rows from position `first` on.
  void grad_columns(int64_t first, int64_t rows, TapRun taps, Real* grad_columns) const {
    for (int64_t i = 0; i < panels() * taps.count; ++i) {
      const int64_t group = i / taps.count / panels_.count(), panel = i % panels_.count();
      const int64_t tap = i / panels_.count() % taps.count;
      const Matrix<Element> matrix{grad_output(first) + group * groups_.out_channels, p_.out_channels,
                                   groups_.out_channels / kTogether<Element>, kTogether<Element>};
      Real* result = grad_columns + tap * p_.in_channels + group * groups_.in_channels;
      kernels_.multiply(matrix, rows, panels_.columns(panel), panels_.width(),
                        packed_->panel(group, panel, {taps.first + tap, 1}), false,
                        result + panel * panels_.width(), taps.count * p_.in_channels);
    }
  }

  const Element* grad_output(int64_t first) const {
    return static_cast<const Element*>(p_.grad_output) + first * p_.out_channels;
  }

 private:
  const Element* packed_panel(int64_t group, int64_t panel, TapRun taps, Element* packed) const {
    if (packed_) return packed_->panel(group, panel, taps);
    panels_.pack(group, panel, taps,
                 [&](int64_t tap) { return packed + (tap - taps.first) * panels_.size(); });
    return packed;
  }

  const DeformConv2dParams& p_;
  const GemmKernels<Element>& kernels_ = gemm_kernels<Element>();
  const MergedGroups groups_;
  const WeightPanels<Element> panels_;
  std::optional<PackedWeight<Element>> packed_;
};

}  // namespace dcn::cpu
