// Backward: per block, grad_columns = grad_output x weight; then the samples' gradients and columns in one
// pass, grad_weight from the columns, and grad_input by scattering grad_columns.
#include <vector>

#include "torch_products.h"

namespace dcn::cpu {
namespace {

using torch::stable::parallel_for;

// Work on consecutive positions with one workspace. Its inner loops are parallel too: they run serially
// inside a parallel region, so one code serves many images (a range each) and few (all threads on one block).
template <typename Element>
class BackwardRange {
 public:
  using Real = Accumulate<Element>;

  BackwardRange(const DeformConv2dParams& p, const Products<Element>& products, int64_t rows,
                Real* grad_weight)
      : p_(p),
        products_(products),
        rows_(rows),
        grad_weight_(grad_weight),
        zeros_(zero_row<Element>(p)),
        samples_(uninitialized<Sample<Real>>(rows * p.offset_groups * p.taps())),
        grad_columns_(uninitialized<Element>(rows * p.column_length())),
        columns_(uninitialized<Element>(grad_weight ? rows * p.column_length() : 0)) {}

  void run(int64_t first, int64_t last) {
    for (; first < last; first += rows_) {
      const int64_t rows = std::min(rows_, last - first);
      if (p_.grad_input || needs_sample_gradients()) products_.grad_columns(first, rows, grad_columns_.get());
      sample(first, rows);
      if (grad_weight_) products_.grad_weight(columns_.get(), first, rows, grad_weight_, scratch_);
      if (p_.grad_input) scatter(rows);
    }
  }

 private:
  bool needs_sample_gradients() const { return p_.grad_offset || p_.grad_mask; }

  void sample(int64_t first, int64_t rows) {
    const int64_t samples_per_row = p_.offset_groups * p_.taps(), length = p_.column_length();
    parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
      Sample<Real>* samples = samples_.get() + begin * samples_per_row;
      Element* columns = columns_.get() + begin * length;
      kernels_.locate(p_, first + begin, end - begin, samples);
      if (needs_sample_gradients()) {
        kernels_.gather_backward(p_, samples, first + begin, end - begin, zeros_.get(),
                                 grad_columns_.get() + begin * length, grad_weight_ ? columns : nullptr);
      } else if (grad_weight_) {
        kernels_.gather(p_, samples, end - begin, zeros_.get(), columns);
      }
    });
  }

  // Threads take channels, not positions: two positions may sample the same pixel.
  void scatter(int64_t rows) {
    parallel_for(0, p_.in_channels, 16, [&](int64_t begin, int64_t end) {
      kernels_.scatter(p_, samples_.get(), rows, begin, end, grad_columns_.get());
    });
  }

  const DeformConv2dParams& p_;
  const Products<Element>& products_;
  const int64_t rows_;
  Real* const grad_weight_;
  const SamplingKernels<Element>& kernels_ = sampling_kernels<Element>();
  const Buffer<Element> zeros_;
  const Buffer<Sample<Real>> samples_;
  const Buffer<Element> grad_columns_, columns_;
  Buffer<Element> scratch_;
};

// grad_weight of the first range is the result; the others' are added to it in order, so that the sum
// depends on the number of threads but not on their timing.
template <typename Element>
void backward(const DeformConv2dParams& p) {
  using Real = Accumulate<Element>;
  const Products<Element> products(p, Direction::backward);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t ranges = p.batch >= threads ? threads : 1;
  const int64_t numel = p.out_channels * p.taps() * p.group_channels();
  auto* grad_weight = static_cast<Real*>(p.grad_weight);
  std::vector<Real> partial(grad_weight ? (ranges - 1) * numel : 0);
  const int64_t rows = block_rows<Element>(p, grad_weight ? 2 : 1, p.batch * p.positions());

  const auto run = [&](int64_t range) {
    Real* sum = range == 0 || !grad_weight ? grad_weight : partial.data() + (range - 1) * numel;
    const int64_t first = p.batch * range / ranges, last = p.batch * (range + 1) / ranges;
    BackwardRange<Element>(p, products, rows, sum).run(first * p.positions(), last * p.positions());
  };
  if (ranges == 1) return run(0);
  parallel_for(0, ranges, 1, [&](int64_t begin, int64_t end) {
    for (int64_t range = begin; range < end; ++range) run(range);
  });
  for (size_t start = 0; start < partial.size(); start += numel) {
    for (int64_t i = 0; i < numel; ++i) grad_weight[i] += partial[start + i];
  }
}

}  // namespace
}  // namespace dcn::cpu

void dcn::deform_conv2d_backward_cpu(const DeformConv2dParams& params) {
  switch (params.element_type) {
    case ElementType::float64:
      return cpu::backward<double>(params);
    case ElementType::float32:
      return cpu::backward<float>(params);
    case ElementType::bfloat16:
      return cpu::backward<cpu::BFloat16>(params);
  }
}

bool dcn::has_native_bfloat16_cpu() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}
