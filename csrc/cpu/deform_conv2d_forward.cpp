// Forward: gather a block of positions into columns, multiply by the weight, blocks in parallel.
#include "torch_products.h"

namespace dcn::cpu {
namespace {

template <typename Element>
class ForwardBlocks {
 public:
  explicit ForwardBlocks(const DeformConv2dParams& p)
      : p_(p), positions_(p.batch * p.positions()), products_(p, Direction::forward) {
    const int64_t threads = torch::stable::get_num_threads();
    rows_ = block_rows<Element>(p, 1, (positions_ + threads - 1) / threads);
  }

  int64_t count() const { return (positions_ + rows_ - 1) / rows_; }

  void run(int64_t first_block, int64_t last_block) const {
    const auto columns = uninitialized<Element>(rows_ * p_.column_length());
    const auto samples = uninitialized<Sample<Accumulate<Element>>>(rows_ * p_.offset_groups * p_.taps());
    const auto zeros = zero_row<Element>(p_);
    const int64_t last = std::min(last_block * rows_, positions_);
    for (int64_t first = first_block * rows_; first < last; first += rows_) {
      const int64_t rows = std::min(rows_, last - first);
      kernels_.locate(p_, first, rows, samples.get());
      kernels_.gather(p_, samples.get(), rows, zeros.get(), columns.get());
      products_.output(columns.get(), first, rows);
    }
  }

 private:
  const DeformConv2dParams& p_;
  const SamplingKernels<Element>& kernels_ = sampling_kernels<Element>();
  const int64_t positions_;
  const Products<Element> products_;
  int64_t rows_;
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
  switch (params.element_type) {
    case ElementType::float64:
      return cpu::forward<double>(params);
    case ElementType::float32:
      return cpu::forward<float>(params);
    case ElementType::bfloat16:
      return cpu::forward<cpu::BFloat16>(params);
  }
}
