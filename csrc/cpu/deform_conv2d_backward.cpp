// Backward: per block and run of taps, grad_columns = grad_output x weight; then the samples' gradients and
// columns in one pass, grad_weight from the columns, and grad_input by scattering grad_columns.
#include <deque>

#include "grad_weight.h"

namespace dcn::cpu {
namespace {

constexpr int64_t kSummedRanges = 2;  // each holds a grad_weight of its own

// Products tap by tap, whatever the runs.
template <typename Element>
Products<Element> backward_products(const DeformConv2dParams& p, Groups groups = Groups::merged) {
  return Products<Element>(p, Direction::backward, TapRuns{p.taps(), 1}, Packing::ahead, groups);
}

// Work on consecutive positions. Its inner loops are parallel too; inside a parallel region they run
// serially.
template <typename Element>
class BackwardRange {
 public:
  using Real = Accumulate<Element>;

  BackwardRange(const DeformConv2dParams& p, const Products<Element>& products,
                GradWeight<Element>& grad_weight, int64_t rows)
      : p_(p),
        products_(products),
        grad_weight_(grad_weight),
        rows_(rows),
        zero_row_(zeros<Element>(p.in_channels)),
        samples_(uninitialized<Sample<Real>>(rows * p.offset_groups * p.taps())),
        grad_columns_(uninitialized<Real>(rows * runs_.length * p.in_channels)),
        columns_(uninitialized<Element>(rows * runs_.length * p.in_channels)) {}

  void run(int64_t first, int64_t last) {
    for (; first < last; first += rows_) {
      const int64_t rows = std::min(rows_, last - first);
      parallel_for(0, rows, kMinimumRows / 2, [&](int64_t begin, int64_t end) {
        kernels_.locate(p_, first + begin, end - begin, samples(begin));
      });
      if (p_.grad_weight) grad_weight_.start(first, rows);
      for (int64_t i = 0; i < runs_.count(); ++i) run(runs_[i], first, rows);
    }
  }

 private:
  Sample<Real>* samples(int64_t row) { return samples_.get() + row * p_.offset_groups * p_.taps(); }

  void run(TapRun taps, int64_t first, int64_t rows) {
    parallel_for(0, rows, kMinimumRows / 2,
                 [&](int64_t begin, int64_t end) { sample(taps, first + begin, begin, end - begin); });
    if (p_.grad_weight) grad_weight_.add(columns_.get(), taps);
    if (p_.grad_input) scatter(taps, rows);
  }

  // Rows [row, row + rows) of the workspace, which are the positions from `first` on.
  void sample(TapRun taps, int64_t first, int64_t row, int64_t rows) {
    const int64_t column = row * taps.count * p_.in_channels;
    Real* grad_columns = grad_columns_.get() + column;
    Element* columns = columns_.get() + column;
    const bool needs_sample_gradients = p_.grad_offset || p_.grad_mask;
    if (p_.grad_input || needs_sample_gradients) multiply(taps, first, rows, grad_columns);
    if (needs_sample_gradients) {
      kernels_.gather_backward(p_, samples(row), taps, first, rows, zero_row_.get(), grad_columns, columns);
    } else if (p_.grad_weight) {
      kernels_.gather(p_, samples(row), taps, rows, zero_row_.get(), columns);
    }
  }

  void multiply(TapRun taps, int64_t first, int64_t rows, Real* grad_columns) const {
    if (!products_.merged() || all_finite(products_.grad_output(first), rows * p_.out_channels)) {
      return products_.grad_columns(first, rows, taps, grad_columns);
    }
    backward_products<Element>(p_, Groups::apart).grad_columns(first, rows, taps, grad_columns);
  }

  // Threads take channels, not positions: two positions may sample the same pixel.
  void scatter(TapRun taps, int64_t rows) {
    parallel_for(0, p_.in_channels, 16, [&](int64_t begin, int64_t end) {
      kernels_.scatter(p_, samples_.get(), taps, rows, begin, end, grad_columns_.get());
    });
  }

  const DeformConv2dParams& p_;
  const Products<Element>& products_;
  GradWeight<Element>& grad_weight_;
  const int64_t rows_;
  const TapRuns runs_ = tap_runs(p_);
  const SamplingKernels<Element>& kernels_ = sampling_kernels<Element>();
  const Buffer<Element> zero_row_;
  const Buffer<Sample<Real>> samples_;
  const Buffer<Real> grad_columns_;
  const Buffer<Element> columns_;
};

// However many threads there are, the images are summed in as many ranges and blocks, so that the result is
// the same. Few threads take a range each and never wait for each other, which matters when other processes
// want their processors; more threads share the blocks of one range after the other.
template <typename Element>
void backward(const DeformConv2dParams& p) {
  const int64_t ranges = std::min(kSummedRanges, p.batch);
  const int64_t row_length = tap_runs(p).length * p.in_channels;
  const int64_t rows = block_rows(row_length * (sizeof(Element) + sizeof(Accumulate<Element>)),
                                  (p.batch + ranges - 1) / ranges * p.positions());
  const Products<Element> products = backward_products<Element>(p);
  std::deque<GradWeight<Element>> sums;
  for (int64_t range = 0; range < ranges; ++range) sums.emplace_back(p, rows);

  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t range = begin; range < end; ++range) {
      const int64_t first = p.batch * range / ranges, last = p.batch * (range + 1) / ranges;
      BackwardRange<Element>(p, products, sums[range], rows).run(first * p.positions(), last * p.positions());
    }
  };
  if (torch::stable::get_num_threads() <= ranges) {
    parallel_for(0, ranges, 1, run);
  } else {
    run(0, ranges);
  }

  if (!p.grad_weight) return;
  for (int64_t range = 1; range < ranges; ++range) sums[0].add(sums[range]);
  sums[0].store();
}

}  // namespace
}  // namespace dcn::cpu

void dcn::deform_conv2d_backward_cpu(const DeformConv2dParams& params) {
  cpu::with_element(params.element_type, [&](auto element) { cpu::backward<decltype(element)>(params); });
}
