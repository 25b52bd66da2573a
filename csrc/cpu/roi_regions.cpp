#include "roi_regions.h"

#include <algorithm>
#include <cmath>

namespace dcn::cpu {
namespace {

template <typename Real>
RoIAxis<Real> make_axis(Real low, Real high, Real scale, int64_t bins, int64_t sampling_ratio) {
  RoIAxis<Real> axis;
  axis.start = rounded(low * scale) - Real(0.5);
  axis.size = (rounded(high * scale) - Real(0.5)) - axis.start;
  axis.bin = axis.size / Real(bins);
  axis.points = sampling_ratio;
  if (sampling_ratio <= 0) {
    const Real points = std::ceil(axis.bin);  // NaN fails the comparison
    axis.points = points > 0 ? static_cast<int64_t>(std::min(points, Real(kMostPoints + 1))) : 0;
  }
  return axis;
}

template <typename Real>
Region<Real> make_region(const DeformRoIPoolParams& p, const Real* box) {
  const Real scale = static_cast<Real>(p.spatial_scale);
  Region<Real> region;
  region.x = make_axis(box[1], box[3], scale, p.bins_width, p.sampling_ratio);
  region.y = make_axis(box[2], box[4], scale, p.bins_height, p.sampling_ratio);
  bool there = box[0] >= 0 && box[0] < Real(p.batch);
  for (const RoIAxis<Real>& axis : {region.y, region.x}) {
    there = there && std::isfinite(axis.start) && std::isfinite(axis.size);
    there = there && (p.sampling_ratio > 0 || axis.points <= kMostPoints);
  }
  region.image = there ? std::min(static_cast<int64_t>(box[0]), p.batch - 1) : -1;
  return region;
}

}  // namespace

template <typename Real>
Regions<Real>::Regions(const DeformRoIPoolParams& p) : first_(p.batch + 1) {
  regions_.reserve(p.regions);
  for (int64_t number = 0; number < p.regions; ++number) {
    regions_.push_back(make_region(p, static_cast<const Real*>(p.boxes) + 5 * number));
    if (regions_.back().image >= 0) ++first_[regions_.back().image + 1];
  }
  for (int64_t image = 0; image < p.batch; ++image) first_[image + 1] += first_[image];
  order_.resize(first_[p.batch]);
  std::vector<int64_t> next(first_.begin(), first_.end());
  for (int64_t number = 0; number < p.regions; ++number) {
    if (regions_[number].image >= 0) order_[next[regions_[number].image]++] = number;
  }
}

template <typename Real>
int64_t Regions<Real>::images() const {
  int64_t images = 0;
  for (size_t image = 0; image + 1 < first_.size(); ++image) images += count(image) > 0;
  return images;
}

template <typename Real>
double Regions<Real>::pixels_of_a_bin(const DeformRoIPoolParams& p) const {
  double pixels = 0;
  for (const int64_t number : order_) {
    const double rows = std::min<double>(regions_[number].y.points + 1, p.height);
    pixels += rows * std::min<double>(regions_[number].x.points + 1, p.width);
  }
  return pixels;
}

template class Regions<double>;
template class Regions<float>;

}  // namespace dcn::cpu
