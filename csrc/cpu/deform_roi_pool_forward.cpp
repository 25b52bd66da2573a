// Forward: region by region, or where its channels are made dense first, block by block.
#include "roi_blocks.h"

namespace dcn::cpu {
namespace {

template <typename Real>
class RoIForward {
 public:
  explicit RoIForward(const DeformRoIPoolParams& p)
      : p_(p), regions_(p), plan_(p, regions_, 2 * torch::stable::get_num_threads()) {}

  void run() const { plan_.converted ? run_blocks() : run_regions(); }

 private:
  void run_regions() const {
    parallel_for(0, p_.regions, fewest_regions(p_), [&](int64_t begin, int64_t end) {
      const RoIScratch<Real> scratch(p_);
      const RoIBlock block = whole_region(p_);
      const auto sums = uninitialized<Real>(sums_size(block));
      for (int64_t number = begin; number < end; ++number) {
        const int64_t image = regions_[number].image;
        if (image < 0) {
          clear(number);
        } else {
          pool(number, block, scratch.taps(), pixels_in_place(p_, input(), image, block), sums.get());
        }
      }
    });
  }

  void run_blocks() const {
    for (int64_t number = 0; number < p_.regions; ++number) {
      if (regions_[number].image < 0) clear(number);
    }
    for_each_unit(p_, regions_, plan_,
                  [&](const RoIBlock& block, int64_t, int64_t image, const auto& taps, Real* memory) {
                    const auto pixels = make_dense(p_, image, block, memory);
                    const auto sums = uninitialized<Real>(sums_size(block));
                    const int64_t* numbers = regions_.of_image(image);
                    for (int64_t i = 0; i < regions_.count(image); ++i) {
                      pool(numbers[i], block, taps, pixels, sums.get());
                    }
                  });
  }

  bool channels_last() const { return p_.layout == Layout::channels_last; }
  int64_t sums_size(const RoIBlock& block) const { return channels_last() ? 0 : block.bins * block.channels; }
  const Real* input() const { return static_cast<const Real*>(p_.input); }
  Real* output(int64_t number) const {
    return static_cast<Real*>(p_.output) + number * p_.out_channels * p_.bins();
  }

  void clear(int64_t number) const { std::fill_n(output(number), p_.out_channels * p_.bins(), Real(0)); }

  // Into the output, or first into sums where a bin's channels are not side by side there.
  void pool(int64_t number, const RoIBlock& block, const RoITaps<Real>& taps,
            const RoIPixels<const Real>& pixels, Real* sums) const {
    Real* to = output(number);
    if (channels_last()) {
      const RoIBins<Real> bins{to + block.first_bin * p_.out_channels + block.first_channel, p_.out_channels};
      return kernels_.pool(p_, regions_[number], number, block, taps, pixels, bins);
    }
    kernels_.pool(p_, regions_[number], number, block, taps, pixels, {sums, block.channels});
    sampling_kernels<Real>().transpose(sums, block.bins, block.channels, block.channels,
                                       to + block.first_channel * p_.bins() + block.first_bin, p_.bins());
  }

  const DeformRoIPoolParams& p_;
  const RoIKernels<Real>& kernels_ = roi_kernels<Real>();
  const Regions<Real> regions_;
  const RoIPlan plan_;
};

}  // namespace
}  // namespace dcn::cpu

void dcn::deform_roi_pool_forward_cpu(const DeformRoIPoolParams& params) {
  if (params.element_type == ElementType::float64) return cpu::RoIForward<double>(params).run();
  cpu::RoIForward<float>(params).run();
}
