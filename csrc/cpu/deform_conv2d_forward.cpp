// Forward: gather a block of positions into columns, multiply by the weight, blocks in parallel.
#include "products.h"

namespace dcn::cpu {
namespace {

template <typename Element>
class ForwardBlocks {
 public:
  using Real = Accumulate<Element>;

  explicit ForwardBlocks(const DeformConv2dParams& p)
      : p_(p),
        positions_(p.batch * p.positions()),
        rows_(even_block_rows(p.column_length() * sizeof(Element), positions_,
                              torch::stable::get_num_threads())),
        products_(p, Direction::forward) {}

  int64_t count() const { return (positions_ + rows_ - 1) / rows_; }

  void run(int64_t first_block, int64_t last_block) const {
    const auto columns = uninitialized<Element>(rows_ * p_.column_length());
    const auto samples = uninitialized<Sample<Real>>(rows_ * p_.offset_groups * p_.taps());
    const auto sums = uninitialized<Real>(kSumsAreOutput ? 0 : rows_ * p_.out_channels);
    const auto zeros = zero_row<Element>(p_);
    const int64_t last = std::min(last_block * rows_, positions_);
    for (int64_t first = first_block * rows_; first < last; first += rows_) {
      const int64_t rows = std::min(rows_, last - first);
      kernels_.locate(p_, first, rows, samples.get());
      kernels_.gather(p_, samples.get(), rows, zeros.get(), columns.get());
      multiply(columns.get(), first, rows, sums.get());
    }
  }

 private:
  static constexpr bool kSumsAreOutput = std::is_same_v<Element, Real>;

  void multiply(const Element* columns, int64_t first, int64_t rows, Real* sums) const {
    Element* output = static_cast<Element*>(p_.output) + first * p_.out_channels;
    if constexpr (kSumsAreOutput) sums = output;
    products_.output(columns, rows, sums);
    if (products_.merged() && !all_finite(sums, rows * p_.out_channels)) {
      Products<Element>(p_, Direction::forward, Groups::apart).output(columns, rows, sums);
    }
    if constexpr (!kSumsAreOutput) kernels_.narrow(sums, rows * p_.out_channels, output);
  }

  const DeformConv2dParams& p_;
  const SamplingKernels<Element>& kernels_ = sampling_kernels<Element>();
  const int64_t positions_, rows_;
  const Products<Element> products_;
};

template <typename Element>
void forward(const DeformConv2dParams& p) {
  const ForwardBlocks<Element> blocks(p);
  torch::stable::parallel_for(0, blocks.count(), 1,
                              [&](int64_t begin, int64_t end) { blocks.run(begin, end); });
}

}  // namespace
}  // namespace dcn::cpu

void dcn::deform_conv2d_forward_cpu(const DeformConv2dParams& params) {
  cpu::with_element(params.element_type, [&](auto element) { cpu::forward<decltype(element)>(params); });
}
