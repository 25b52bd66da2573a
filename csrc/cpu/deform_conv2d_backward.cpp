// Backward: per block, grad_columns = grad_output x weight; then the samples' gradients and columns in one
// pass, grad_weight from the columns, and grad_input by scattering grad_columns.
#include "grad_weight.h"

namespace dcn::cpu {
namespace {

template <typename Element>
class Backward {
 public:
  using Real = Accumulate<Element>;

  explicit Backward(const DeformConv2dParams& p)
      : p_(p),
        positions_(p.batch * p.positions()),
        block_rows_(block_rows(p.column_length() * (sizeof(Element) + sizeof(Real)), positions_)),
        rows_(std::min(block_rows_ * torch::stable::get_num_threads(), positions_)),
        products_(p, Direction::backward),
        grad_weight_(p, block_rows_),
        zeros_(zero_row<Element>(p)),
        samples_(uninitialized<Sample<Real>>(rows_ * p.offset_groups * p.taps())),
        grad_columns_(uninitialized<Real>(rows_ * p.column_length())),
        columns_(uninitialized<Element>(rows_ * p.column_length())) {}

  // All threads work on the same blocks, one a thread: which thread does what changes no sum.
  void run() {
    for (int64_t first = 0; first < positions_; first += rows_) {
      const int64_t rows = std::min(rows_, positions_ - first);
      parallel_for(0, rows, kMinimumRows / 2,
                   [&](int64_t begin, int64_t end) { sample(first + begin, begin, end - begin); });
      if (p_.grad_weight) grad_weight_.add(columns_.get(), first, rows);
      if (p_.grad_input) scatter(rows);
    }
    if (p_.grad_weight) grad_weight_.store();
  }

 private:
  // Rows [row, row + rows) of the workspace, which are the positions from `first` on.
  void sample(int64_t first, int64_t row, int64_t rows) {
    Sample<Real>* samples = samples_.get() + row * p_.offset_groups * p_.taps();
    Real* grad_columns = grad_columns_.get() + row * p_.column_length();
    Element* columns = columns_.get() + row * p_.column_length();
    const bool needs_sample_gradients = p_.grad_offset || p_.grad_mask;
    kernels_.locate(p_, first, rows, samples);
    if (p_.grad_input || needs_sample_gradients) products_.grad_columns(first, rows, grad_columns);
    if (needs_sample_gradients) {
      kernels_.gather_backward(p_, samples, first, rows, zeros_.get(), grad_columns, columns);
    } else if (p_.grad_weight) {
      kernels_.gather(p_, samples, rows, zeros_.get(), columns);
    }
  }

  // Threads take channels, not positions: two positions may sample the same pixel.
  void scatter(int64_t rows) {
    parallel_for(0, p_.in_channels, 16, [&](int64_t begin, int64_t end) {
      kernels_.scatter(p_, samples_.get(), rows, begin, end, grad_columns_.get());
    });
  }

  const DeformConv2dParams& p_;
  const int64_t positions_, block_rows_, rows_;
  const SamplingKernels<Element>& kernels_ = sampling_kernels<Element>();
  const Products<Element> products_;
  GradWeight<Element> grad_weight_;
  const Buffer<Element> zeros_;
  const Buffer<Sample<Real>> samples_;
  const Buffer<Real> grad_columns_;
  const Buffer<Element> columns_;
};

}  // namespace
}  // namespace dcn::cpu

void dcn::deform_conv2d_backward_cpu(const DeformConv2dParams& params) {
  switch (params.element_type) {
    case ElementType::float64:
      return cpu::Backward<double>(params).run();
    case ElementType::float32:
      return cpu::Backward<float>(params).run();
    case ElementType::bfloat16:
      return cpu::Backward<cpu::BFloat16>(params).run();
  }
}
