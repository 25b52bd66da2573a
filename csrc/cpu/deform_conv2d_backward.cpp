// Backward: per block, grad_columns = grad_output x weight; then the samples' gradients and columns in one
// pass, grad_weight from the columns, and grad_input by scattering grad_columns.
#include <deque>

#include "grad_weight.h"

namespace dcn::cpu {
namespace {

constexpr int64_t kSummedRanges = 2;  // each holds a grad_weight of its own

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
        zeros_(zero_row<Element>(p)),
        samples_(uninitialized<Sample<Real>>(rows * p.offset_groups * p.taps())),
        grad_columns_(uninitialized<Real>(rows * p.column_length())),
        columns_(uninitialized<Element>(rows * p.column_length())) {}

  void run(int64_t first, int64_t last) {
    for (; first < last; first += rows_) {
      const int64_t rows = std::min(rows_, last - first);
      parallel_for(0, rows, kMinimumRows / 2,
                   [&](int64_t begin, int64_t end) { sample(first + begin, begin, end - begin); });
      if (p_.grad_weight) grad_weight_.add(columns_.get(), first, rows);
      if (p_.grad_input) scatter(rows);
    }
  }

 private:
  // Rows [row, row + rows) of the workspace, which are the positions from `first` on.
  void sample(int64_t first, int64_t row, int64_t rows) {
    Sample<Real>* samples = samples_.get() + row * p_.offset_groups * p_.taps();
    Real* grad_columns = grad_columns_.get() + row * p_.column_length();
    Element* columns = columns_.get() + row * p_.column_length();
    const bool needs_sample_gradients = p_.grad_offset || p_.grad_mask;
    kernels_.locate(p_, first, rows, samples);
    if (p_.grad_input || needs_sample_gradients) multiply(first, rows, grad_columns);
    if (needs_sample_gradients) {
      kernels_.gather_backward(p_, samples, first, rows, zeros_.get(), grad_columns, columns);
    } else if (p_.grad_weight) {
      kernels_.gather(p_, samples, rows, zeros_.get(), columns);
    }
  }

  void multiply(int64_t first, int64_t rows, Real* grad_columns) const {
    if (!products_.merged() || all_finite(products_.grad_output(first), rows * p_.out_channels)) {
      return products_.grad_columns(first, rows, grad_columns);
    }
    Products<Element>(p_, Direction::backward, Groups::apart).grad_columns(first, rows, grad_columns);
  }

  // Threads take channels, not positions: two positions may sample the same pixel.
  void scatter(int64_t rows) {
    parallel_for(0, p_.in_channels, 16, [&](int64_t begin, int64_t end) {
      kernels_.scatter(p_, samples_.get(), rows, begin, end, grad_columns_.get());
    });
  }

  const DeformConv2dParams& p_;
  const Products<Element>& products_;
  GradWeight<Element>& grad_weight_;
  const int64_t rows_;
  const SamplingKernels<Element>& kernels_ = sampling_kernels<Element>();
  const Buffer<Element> zeros_;
  const Buffer<Sample<Real>> samples_;
  const Buffer<Real> grad_columns_;
  const Buffer<Element> columns_;
};

// However many threads there are, the images are summed in as many ranges, so that the result is the same.
// Few threads take a range each and never wait for each other, which matters when other processes want their
// processors; more threads work on one range after the other, each on a block of it.
template <typename Element>
void backward(const DeformConv2dParams& p) {
  using Real = Accumulate<Element>;
  const int64_t threads = torch::stable::get_num_threads(), ranges = std::min(kSummedRanges, p.batch);
  const int64_t rows =
      block_rows(p.column_length() * (sizeof(Element) + sizeof(Real)), p.batch * p.positions());
  const Products<Element> products(p, Direction::backward);
  std::deque<GradWeight<Element>> sums;
  for (int64_t range = 0; range < ranges; ++range) sums.emplace_back(p, rows);

  const auto run = [&](int64_t range, int64_t blocks) {
    const int64_t first = p.batch * range / ranges, last = p.batch * (range + 1) / ranges;
    BackwardRange<Element>(p, products, sums[range], std::min(blocks * rows, (last - first) * p.positions()))
        .run(first * p.positions(), last * p.positions());
  };
  parallel_for(0, threads <= ranges ? ranges : 0, 1, [&](int64_t begin, int64_t end) {
    for (int64_t range = begin; range < end; ++range) run(range, 1);
  });
  for (int64_t range = 0; threads > ranges && range < ranges; ++range) run(range, threads);

  if (!p.grad_weight) return;
  for (int64_t range = 1; range < ranges; ++range) sums[0].add(sums[range]);
  sums[0].store();
}

}  // namespace
}  // namespace dcn::cpu

void dcn::deform_conv2d_backward_cpu(const DeformConv2dParams& params) {
  cpu::with_element(params.element_type, [&](auto element) { cpu::backward<decltype(element)>(params); });
}
