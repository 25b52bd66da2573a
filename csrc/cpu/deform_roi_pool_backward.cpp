// Backward: the gradients of offset and mask from inner products, region by region, and that of the input by
// scattering, block by block. Where the input is made dense first, both go block by block.
#include "roi_blocks.h"

namespace dcn::cpu {
namespace {

template <typename Real>
class RoIBackward {
 public:
  explicit RoIBackward(const DeformRoIPoolParams& p) : p_(p), regions_(p) {}

  void run() const {
    if (p_.grad_input) scatter();
    if (p_.grad_offset || p_.grad_mask) multiply();
  }

 private:
  // Regions meet in pixels: a thread takes channels (and, where they are position-sensitive, bins) of an
  // image, and its regions in order.
  void scatter() const {
    const RoIPlan plan(p_, regions_, 2 * torch::stable::get_num_threads());
    clear(plan.converted);
    for_each_unit(p_, regions_, plan,
                  [&](const RoIBlock& block, int64_t, int64_t image, const auto& taps, Real* memory) {
                    const auto place = pixels_in_place(p_, static_cast<Real*>(p_.grad_input), image, block);
                    const auto dense = dense_pixels(p_, memory, block);
                    if (plan.converted) {
                      std::fill_n(memory, plan.planes(p_) * p_.pixels() * block.channels, Real(0));
                    }
                    const auto& pixels = plan.converted ? dense : place;
                    for_each_gradient(image, block, [&](int64_t number, const RoIBins<const Real>& grads) {
                      kernels_.scatter(p_, regions_[number], number, block, taps, grads, pixels);
                    });
                    if (plan.converted) convert_pixels(p_, block, dense, place);
                  });
  }

  // The gradient of the input; where blocks are converted, only of images that have no regions.
  void clear(bool converted) const {
    const int64_t size = p_.in_channels * p_.pixels(), piece = 1 << 16;
    const int64_t pieces = (size + piece - 1) / piece;
    parallel_for(0, p_.batch * pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / pieces, first = i % pieces * piece;
        if (converted && regions_.count(image) > 0) continue;
        Real* grad_input = static_cast<Real*>(p_.grad_input) + image * size;
        std::fill_n(grad_input + first, std::min(piece, size - first), Real(0));
      }
    });
  }

  // Blocks do not depend on the number of threads, since each has sums of its own.
  void multiply() const {
    const RoIPlan plan(p_, regions_);
    const int64_t size = p_.regions * p_.offset_groups * p_.bins() * 3;
    const int64_t parts = plan.converted ? plan.channel_blocks : 1;
    const auto sums = zeros<Real>(parts * size);
    plan.converted ? multiply_blocks(plan, sums.get(), size) : multiply_regions(sums.get());
    parallel_for(0, p_.regions, fewest_regions(p_), [&](int64_t begin, int64_t end) {
      for (int64_t number = begin; number < end; ++number) store(number, sums.get(), size, parts);
    });
  }

  void multiply_regions(Real* sums) const {
    parallel_for(0, p_.regions, fewest_regions(p_), [&](int64_t begin, int64_t end) {
      const RoIScratch<Real> scratch(p_);
      const RoIBlock block = whole_region(p_);
      const auto memory = uninitialized<Real>(gradient_size(block));
      for (int64_t number = begin; number < end; ++number) {
        const int64_t image = regions_[number].image;
        if (image < 0) continue;
        kernels_.products(p_, regions_[number], number, block, scratch.taps(),
                          gradient(number, block, memory.get()), pixels_in_place(p_, input(), image, block),
                          sums + number * p_.offset_groups * p_.bins() * 3);
      }
    });
  }

  void multiply_blocks(const RoIPlan& plan, Real* sums, int64_t size) const {
    for_each_unit(p_, regions_, plan,
                  [&](const RoIBlock& block, int64_t i, int64_t image, const auto& taps, Real* memory) {
                    const auto pixels = make_dense(p_, image, block, memory);
                    Real* part = sums + plan.channel_block(i) * size;
                    for_each_gradient(image, block, [&](int64_t number, const RoIBins<const Real>& grads) {
                      kernels_.products(p_, regions_[number], number, block, taps, grads, pixels,
                                        part + number * p_.offset_groups * p_.bins() * 3);
                    });
                  });
  }

  void store(int64_t number, const Real* sums, int64_t size, int64_t parts) const {
    const Region<Real>& region = regions_[number];
    const Real points = Real(region.points());
    const int64_t bins = p_.bins(), first = number * p_.offset_groups * bins;
    for (int64_t i = 0; i < p_.offset_groups * bins; ++i) {
      const int64_t g = i / bins, row = i % bins / p_.bins_width, column = i % p_.bins_width;
      Real sum[3] = {0, 0, 0};
      for (int64_t part = 0; part < parts && region.image >= 0; ++part) {
        for (int64_t j = 0; j < 3; ++j) sum[j] += sums[part * size + 3 * (first + i) + j];
      }
      if (p_.grad_mask) static_cast<Real*>(p_.grad_mask)[first + i] = sum[0] / points;
      if (!p_.grad_offset) continue;
      const Real scale = region.image < 0 ? Real(0) : Real(p_.gamma) * mask(number, g, row, column) / points;
      Real* grad = static_cast<Real*>(p_.grad_offset) + 2 * (first + g * bins) + i % bins;
      grad[0] = region.image < 0 ? Real(0) : scale * region.x.size * sum[1];
      grad[bins] = region.image < 0 ? Real(0) : scale * region.y.size * sum[2];
    }
  }

  Real mask(int64_t number, int64_t g, int64_t row, int64_t column) const {
    const Strides4& s = p_.mask_strides;
    const int64_t at = number * s.batch + g * s.channel + row * s.row + column * s.column;
    return p_.mask ? static_cast<const Real*>(p_.mask)[at] : Real(1);
  }

  // Calls body(number, gradient of its output) for the regions of an image, in order.
  template <typename Body>
  void for_each_gradient(int64_t image, const RoIBlock& block, const Body& body) const {
    const auto memory = uninitialized<Real>(gradient_size(block));
    const int64_t* numbers = regions_.of_image(image);
    for (int64_t i = 0; i < regions_.count(image); ++i) {
      body(numbers[i], gradient(numbers[i], block, memory.get()));
    }
  }

  bool channels_last() const { return p_.grad_output_layout == Layout::channels_last; }
  int64_t gradient_size(const RoIBlock& block) const {
    return channels_last() ? 0 : block.bins * block.channels;
  }
  const Real* input() const { return static_cast<const Real*>(p_.input); }

  // Where it lies, or transposed into memory where a bin's channels are not side by side.
  RoIBins<const Real> gradient(int64_t number, const RoIBlock& block, Real* memory) const {
    const Real* from = static_cast<const Real*>(p_.grad_output) + number * p_.out_channels * p_.bins();
    if (channels_last()) {
      return {from + block.first_bin * p_.out_channels + block.first_channel, p_.out_channels};
    }
    sampling_kernels<Real>().transpose(from + block.first_channel * p_.bins() + block.first_bin,
                                       block.channels, block.bins, p_.bins(), memory, block.channels);
    return {memory, block.channels};
  }

  const DeformRoIPoolParams& p_;
  const RoIKernels<Real>& kernels_ = roi_kernels<Real>();
  const Regions<Real> regions_;
};

}  // namespace
}  // namespace dcn::cpu

void dcn::deform_roi_pool_backward_cpu(const DeformRoIPoolParams& params) {
  if (params.element_type == ElementType::float64) return cpu::RoIBackward<double>(params).run();
  cpu::RoIBackward<float>(params).run();
}
