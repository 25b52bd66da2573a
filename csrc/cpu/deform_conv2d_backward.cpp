// Backward: per block and run of taps, grad_columns = grad_output x weight; then the samples' gradients and
// columns together, grad_weight from the columns, and grad_input by scattering grad_columns.
#include <deque>

#include "grad_weight.h"

namespace dcn::cpu {
namespace {

constexpr int64_t kSummedRanges = 2;     // each holds a grad_weight of its own
constexpr int64_t kPassBytes = 5 << 20;  // of the packed weight and the sums of all ranges

// What is the same for all blocks of one pass, which is over some of the taps.
template <typename Element>
struct BackwardPass {
  using Real = Accumulate<Element>;

  const DeformConv2dParams& p;
  const TapRuns runs;
  const int64_t rows;  // of a block
  const Products<Element> products;

  BackwardPass(const DeformConv2dParams& params, TapRun taps)
      : p(params),
        runs{taps, column_runs(p).length},
        rows(block_rows(row_bytes(), p.batch * p.positions())),
        products(make_products(Groups::merged)) {}

  // Packed tap by tap, whatever the runs.
  Products<Element> make_products(Groups groups) const {
    return Products<Element>(p, Direction::backward, TapRuns{runs.all, 1}, Packing::ahead, groups);
  }

  int64_t row_bytes() const { return runs.length * p.in_channels * (sizeof(Element) + sizeof(Real)); }
};

// Work on consecutive positions. Its inner loops are parallel too; inside a parallel region they run
// serially.
template <typename Element>
class BackwardRange {
 public:
  using Real = Accumulate<Element>;

  BackwardRange(const BackwardPass<Element>& pass, GradWeight<Element>& grad_weight)
      : pass_(pass),
        grad_weight_(grad_weight),
        zero_row_(zeros<Element>(p_.in_channels)),
        samples_(uninitialized<Sample<Real>>(pass.rows * p_.offset_groups * p_.taps())),
        grad_columns_(uninitialized<Real>(pass.rows * pass.runs.length * p_.in_channels)),
        columns_(uninitialized<Element>(pass.rows * pass.runs.length * p_.in_channels)) {}

  void run(int64_t first, int64_t last) {
    for (; first < last; first += pass_.rows) {
      const int64_t rows = std::min(pass_.rows, last - first);
      parallel_for(0, rows, kMinimumRows / 2, [&](int64_t begin, int64_t end) {
        kernels_.locate(p_, first + begin, end - begin, samples(begin));
      });
      if (p_.grad_weight) grad_weight_.start(first, rows);
      for (int64_t i = 0; i < pass_.runs.count(); ++i) run(pass_.runs[i], first, rows);
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
    const Products<Element>& products = pass_.products;
    if (!products.merged() || all_finite(products.grad_output(first), rows * p_.out_channels)) {
      return products.grad_columns(first, rows, taps, grad_columns);
    }
    pass_.make_products(Groups::apart).grad_columns(first, rows, taps, grad_columns);
  }

  // Threads take channels, not positions: two positions may sample the same pixel.
  void scatter(TapRun taps, int64_t rows) {
    parallel_for(0, p_.in_channels, 16, [&](int64_t begin, int64_t end) {
      kernels_.scatter(p_, samples_.get(), taps, rows, begin, end, grad_columns_.get());
    });
  }

  const BackwardPass<Element>& pass_;
  const DeformConv2dParams& p_ = pass_.p;
  GradWeight<Element>& grad_weight_;
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
void backward_pass(const BackwardPass<Element>& pass) {
  const DeformConv2dParams& p = pass.p;
  const int64_t ranges = std::min(kSummedRanges, p.batch);
  std::deque<GradWeight<Element>> sums;
  for (int64_t range = 0; range < ranges; ++range) sums.emplace_back(p, pass.runs.all, pass.rows);

  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t range = begin; range < end; ++range) {
      const int64_t first = p.batch * range / ranges, last = p.batch * (range + 1) / ranges;
      BackwardRange<Element>(pass, sums[range]).run(first * p.positions(), last * p.positions());
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

template <typename Element>
void backward(const DeformConv2dParams& p) {
  const MergedGroups groups(p, gemm_kernels<Element>().lanes);
  const int64_t tap_bytes =
      p.out_channels * groups.in_channels * (sizeof(Element) + kSummedRanges * sizeof(Accumulate<Element>));
  const TapRuns passes = even_runs(p, kPassBytes / tap_bytes);
  for (int64_t i = 0; i < passes.count(); ++i) backward_pass(BackwardPass<Element>(p, passes[i]));
}

}  // namespace
}  // namespace dcn::cpu

void dcn::deform_conv2d_backward_cpu(const DeformConv2dParams& params) {
  cpu::with_element(params.element_type, [&](auto element) { cpu::backward<decltype(element)>(params); });
}
